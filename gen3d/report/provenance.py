"""Limits of the report, and the provenance of every number."""

from __future__ import annotations

import importlib.metadata
import platform
from typing import Any

import yaml

from gen3d import __version__
from gen3d.anomaly.sections.limits import limits_of_maps
from gen3d.classify.folder import HeadFolder
from gen3d.classify.sections.heads import LIMIT_OF_HEADS
from gen3d.cohort.methods import methods_text
from gen3d.core import words as spell
from gen3d.core.artefact import Artefact
from gen3d.figures.blocks import Code, Details, Heading, Points, Section, Table, Text
from gen3d.figures.context import Context

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
    artefacts = context.artefacts
    packages = _packages()
    blocks: list[Any] = [
        Points(tuple(_limits(context))),
        Heading("Inputs"),
        Text(
            "Every folder has a key. It is computed from the settings, the keys of the inputs and the version, so the same "
            "key means the same result."
        ),
        _inputs(artefacts),
        Details("Methods, to copy (also methods.md beside this page)", [Code(methods_text(artefacts))], printed=False),
        Details("Settings of every input", [Code(_settings(artefact)) for artefact in artefacts], printed=False),
        Details(
            "Software",
            [
                Table(
                    "Versions at the time of this report.",
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
    sentences = [
        "This report is for research. It is not a medical device, has not been validated for clinical use, and must "
        "not guide the care of a person.",
        "A z score measures how unusual a finding is among healthy people of the same age and sex. It does not show the "
        "cause: motion, scanner, medication, hydration and preparation errors also change images of the brain.",
    ]
    sentences += limits_of_maps(context)
    if context.all(HeadFolder):
        sentences.append(LIMIT_OF_HEADS)
    if any(item.verb == "simulate" for item in context.artefacts):
        sentences.append(
            "At least one cohort of this report is simulated. Its figures show that the method works as intended; they do "
            "not predict performance in patients."
        )
    waivers = [f"{text} in {artefact.folder}" for artefact in context.artefacts for text in artefact.waivers]
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
            _input_keys(item),
        ]
        for item in artefacts
    ]
    header = ["Folder", "Written by", "Version", "Finished", "Key", "Keys of its inputs"]
    return Table("The input folders of this report.", header, rows, "llllll")


def _input_keys(artefact: Artefact) -> str:
    keys = [str(item.get("key", "")) for items in artefact.inputs.values() for item in items if isinstance(item, dict)]
    return ", ".join(keys) or spell.NONE


def _settings(artefact: Artefact) -> str:
    return (
        f"# {artefact.folder}: gen3d "
        f"{artefact.verb}\n{yaml.safe_dump(artefact.config, sort_keys=False, allow_unicode=True)}"
    )


def _packages() -> dict[str, str]:
    versions = {"gen3d": __version__, "Python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
