"""The methods of a result in words, to copy into a paper: made of the records of what was run, with references and versions.

A record says which settings a folder was made with; the sentences follow it, so that a step that was left out is not told.
What cannot be found any more (an input that is gone) is not told either.
"""

from __future__ import annotations

import importlib.metadata
import platform
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gen3d import __version__
from gen3d.core import words
from gen3d.core.artefact import Artefact, read
from gen3d.core.errors import UserError
from gen3d.core.inputs import find_input
from gen3d.core.package_data import package_text

METHODS = "methods.md"
PACKAGES = ("torch", "monai", "numpy", "scipy", "SimpleITK", "nibabel", "nilearn")
COPIES = "runs"
"""Where a norm keeps copies of its models."""

MODELS = {
    "restorer": "a U-Net [unet] that was trained to take synthetic anomalies out of scans of controls",
    "pca": "the projection on principal components of scans of controls",
    "voxelwise": "a regression of every voxel on age, sex and site in controls",
    "vae": "a variational autoencoder [vae] of scans of controls",
    "latent_diffusion": "latent diffusion [ldm]",
}
"""What each kind of model expects of a healthy person, with the keys of references."""


COVARIATES = {"age2": "the square of age", "age_spline": "a smooth curve of age"}
MEAN = "the mean of controls with moderated variance [moderated]"


def chain(artefacts: Iterable[Artefact]) -> list[Artefact]:
    """Folders, what they were made from, and so on, the first inputs first; each once, and those that are found."""
    ordered: dict[str, Artefact] = {}

    def visit(artefact: Artefact) -> None:
        if artefact.key in ordered:
            return
        items = [item for listed in artefact.inputs.values() for item in listed]
        below = [folder for item in items if (folder := find_input(artefact, item)) is not None and folder.is_dir()]
        copies = sorted((artefact.folder / COPIES).glob("*")) if artefact.verb == "norm" else []
        for opened in filter(None, map(_opened, [*below, *copies])):
            visit(opened)
        ordered[artefact.key] = artefact

    for artefact in artefacts:
        visit(artefact)
    return list(ordered.values())


def _opened(folder: Path) -> Artefact | None:
    try:
        return read(folder)
    except (UserError, OSError):
        return None


def methods_text(artefacts: Iterable[Artefact]) -> str:
    """Markdown: one paragraph per step that was run, the references in the order of their first mention, and versions."""
    told: list[str] = []
    for artefact in chain(artefacts):
        sentences = SENTENCES[artefact.verb](artefact) if artefact.verb in SENTENCES else ""
        if sentences and sentences not in told:
            told.append(sentences)
    text, references = _numbered(told)
    versions = ", ".join([f"gen3d {__version__}", f"Python {platform.python_version()}", *_versions()])
    lines = ["# Methods", "", *(f"{paragraph}\n" for paragraph in text), f"Versions: {versions}.", ""]
    lines += ["For research; not for the diagnosis or care of a person.", "", "## References", ""]
    return "\n".join([*lines, *(f"{place}. {citation}" for place, citation in enumerate(references, start=1))]) + "\n"


def _versions() -> list[str]:
    found = []
    for name in PACKAGES:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def citations() -> dict[str, str]:
    """Key of a reference -> citation."""
    lines = package_text("gen3d.cohort", "references.tsv").splitlines()[1:]
    return {line.split("\t")[0]: line.split("\t")[1] for line in lines}


def _numbered(paragraphs: Sequence[str]) -> tuple[list[str], list[str]]:
    """Paragraphs with numbers in place of keys such as [n4, fdr], and the citations of these numbers."""
    known, order = citations(), dict[str, int]()

    def number(found: re.Match[str]) -> str:
        keys = found[1].split(", ")
        return f"[{', '.join(str(order.setdefault(key, len(order) + 1)) for key in keys)}]"

    pattern = re.compile(rf"\[((?:{'|'.join(known)})(?:, (?:{'|'.join(known)}))*)\]")
    return [pattern.sub(number, paragraph) for paragraph in paragraphs], [known[key] for key in order]


# ----------------------------------------------------------------------------------------------- sentences by verb


def _prepare(artefact: Artefact) -> str:
    config = artefact.config
    masks = {
        "given": "given masks",
        "auto": "the template, or as it was if already stripped",
        "template": "the template",
    }
    mask = str(config.get("brain_mask", "auto"))
    steps = [f"brain-masked ({masks.get(mask, mask)})"]
    steps += ["corrected for intensity drift by N4 [n4]"] if config.get("bias_correction", True) else []
    steps.append(f"aligned linearly ({config.get('degrees_of_freedom', 12)} degrees of freedom) to MNI152 [template]")
    steps.append(f"resampled once to cubic voxels of {float(config.get('spacing_mm', 2)):g} mm")
    steps.append("scaled to a white-matter median of 1")
    text = f"T1w scans, given as BIDS [bids] or as a table, were prepared with gen3d {artefact.version}: {words.listed(steps)}."
    if config.get("deformation_channel", True):
        text += (
            " The template was deformed to each scan by diffeomorphic registration [demons]; the logarithm of its Jacobian "
            "determinant is local volume."
        )
    if config.get("density_channel", False):
        text += (
            " Grey matter, by a mixture of three tissues with the template's maps as priors, was brought to the template and "
            "multiplied by local volume [vbm]."
        )
    return f"{text} Each scan got a verdict of quality, and scans with the verdict exclude were left out."


def _model(artefact: Artefact) -> str:
    model = artefact.config.get("model")
    kind = str(model.get("kind", "")) if isinstance(model, dict) else ""
    what = MODELS.get(kind)
    members = artefact.config.get("cross_fit")
    fitted = f", cross-fitted in {members} folds by person" if isinstance(members, int) and members > 1 else ""
    return f"A model of gen3d {artefact.version} ({kind}) was trained: {what}{fitted}." if what else ""


def _norm(artefact: Artefact) -> str:
    return (
        f"Deviations from the model's expectation were calibrated on controls that the model had not seen (a norm of "
        f"gen3d {artefact.version}): {_calibration(artefact.config)}."
    )


def _calibration(config: Mapping[str, Any]) -> str:
    """How z is made, as the settings say."""
    named = config.get("covariates")
    names = [COVARIATES.get(str(name), str(name)) for name in named] if isinstance(named, list | tuple) else []
    parts = [f"a linear model of {words.listed(names)} with moderated variance [moderated]" if names else MEAN]
    parts += ["a factor of the variance by site [combat]"] if config.get("site_variance", True) else []
    parts += ["an empirical null [null]"] if config.get("empirical_null", True) else []
    return words.listed(parts)


def _anomaly(artefact: Artefact) -> str:
    config, num = artefact.config, artefact.summary.get("num_calibration")
    on = f" on {num} controls" if isinstance(num, int) else ""
    if artefact.inputs.get("norm"):
        first = f"Every scan was judged by the norm{on}, by gen3d {artefact.version}; no control's image was needed."
    else:
        first = (
            f"Every scan was compared with the model's expectation and calibrated{on} whom the model had not seen, with "
            f"gen3d {artefact.version}: {_calibration(config)}."
        )
    return (
        f"{first} Voxels were controlled for a false discovery rate of {float(config.get('q', 0.05)):g} [fdr]; p of regions are "
        "ranks among held-out controls [conformal]."
    )


def _change(artefact: Artefact) -> str:
    return (
        f"Two scans of one person were compared by the reliable change index [rci] with gen3d {artefact.version}, against how much "
        "scans of controls differ."
    )


def _sample(artefact: Artefact) -> str:
    what = "checked for copies of the people that the model was trained on"
    return f"Synthetic scans were drawn with gen3d {artefact.version} and {what}."


SENTENCES: dict[str, Callable[[Artefact], str]] = {
    "prepare": _prepare,
    "train": _model,
    "norm": _norm,
    "anomaly": _anomaly,
    "change": _change,
    "sample": _sample,
}
