"""What the report cannot say, and where every number comes from."""

from __future__ import annotations

import importlib.metadata
import platform
from typing import Any

import yaml

from gen3d import __version__
from gen3d.core.artefact import Artefact
from gen3d.figures import names as wording
from gen3d.figures.blocks import Code, Details, Heading, Points, Section, Table, Text
from gen3d.report.context import Context

PACKAGES = (
    "numpy",
    "scipy",
    "pandas",
    "scikit-learn",
    "SimpleITK",
    "nibabel",
    "nilearn",
    "torch",
    "monai",
    "umap-learn",
    "matplotlib",
)


def section(context: Context) -> Section:
    """Limits in sentences, then inputs with hashes, versions and settings."""
    artefacts = context.sources.artefacts
    packages = _packages()
    blocks: list[Any] = [
        Points(tuple(_limits(context))),
        Heading("Inputs"),
        Text(
            "Every folder carries a key made of its settings, its inputs' keys and the version; the same key means "
            "the same result."
        ),
        _inputs(artefacts),
        Details("Settings of every input", [Code(_settings(artefact)) for artefact in artefacts], printed=False),
        Details(
            "Software",
            [
                Table(
                    "Versions when this report was made.",
                    ["Package", "Version"],
                    [list(item) for item in packages.items()],
                    "ll",
                )
            ],
            printed=False,
        ),
    ]
    numbers = {
        "inputs": [
            {"folder": str(item.folder), "verb": item.verb, "key": item.key, "version": item.version}
            for item in artefacts
        ],
        "software": packages,
    }
    return Section("limits", "Limits and provenance", blocks, numbers)


def _limits(context: Context) -> list[str]:
    sources = context.sources
    sentences = [
        "This report is for research. It is not a medical device, has not been validated for clinical use, and must "
        "not guide the care of a person.",
        "A z score says how unusual a finding is among healthy people of the same age and sex. It says nothing about "
        "the cause: motion, scanner, medication, "
        "hydration and preparation errors change brains on images too.",
    ]
    for maps in sources.maps[:1]:
        record = next((item for item in maps.calibration.values() if isinstance(item, dict)), {})
        low, high = (record.get("age_range_years") or [None, None])[:2]
        if low is not None and high is not None:
            flagged = int((maps.subjects["flags"].astype(str) != "").sum()) if "flags" in maps.subjects else 0
            text = (
                f"Calibration covers ages {low:.0f} to {high:.0f} and the sites "
                f"{wording.listed([str(name) or 'without a name' for name in record.get('sites') or {}])}"
            )
            sentences.append(
                f"{text}; {wording.people(flagged)} outside of that or with missing covariates "
                f"{'is' if flagged == 1 else 'are'} flagged."
            )
        without = int(
            maps.subjects[[score.column for score in maps.scores if score.kind == "voxels"]].isna().all(axis=1).sum()
        )
        if without:
            sentences.append(
                f"{wording.people(without).capitalize()} got no z map, because no control of their site calibrates; "
                "prepare at least 8 controls of that site together with them and run `gen3d anomaly` again."
            )
    if sources.maps:
        sentences.append(
            "Maps show where a model and a scan disagree. A change that the model reproduces, or that is spread "
            "thinly over the whole brain, is not seen; "
            "an empty map is no proof of health. Local volume changes are underestimated by registration, more so "
            "where they are small in extent."
        )
        sentences.append(
            "Intervals and p values describe this cohort; AUCs of several scores and groups are shown without "
            "correction for looking at all of them."
        )
    if sources.heads:
        sentences.append(
            "Intervals of heads take the fitted models as given: fitted anew on other people they would differ by more. A "
            "probability holds for people mixed as those that a head learned from; where a disease is rarer, look at the "
            "predictive values."
        )
    if any(item.verb == "simulate" for item in sources.artefacts):
        sentences.append(
            "At least one cohort here is simulated. Its figures show that the method works as intended; they do not "
            "predict performance in patients."
        )
    waivers = [f"{text} in {artefact.folder}" for artefact in sources.artefacts for text in artefact.waivers]
    sentences += [f"A safeguard was waived: {text}." for text in waivers]
    return sentences


def _inputs(artefacts: tuple[Artefact, ...]) -> Table:
    rows = [
        [
            str(item.folder),
            f"gen3d {item.verb}",
            item.version,
            item.finished_at[:10],
            item.key,
            _made_from(item),
        ]
        for item in artefacts
    ]
    header = ["Folder", "Written by", "Version", "Finished", "Key", "Keys of its inputs"]
    return Table("The folders that this report was made from.", header, rows, "llllll")


def _made_from(artefact: Artefact) -> str:
    keys = [str(item.get("key", "")) for items in artefact.inputs.values() for item in items if isinstance(item, dict)]
    return ", ".join(keys) or wording.NONE


def _settings(artefact: Artefact) -> str:
    return (
        f"# {artefact.folder}: gen3d "
        f"{artefact.verb}\n{yaml.safe_dump(artefact.config, sort_keys=False, allow_unicode=True)}"
    )


def _packages() -> dict[str, str]:
    found = {"gen3d": __version__, "Python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
