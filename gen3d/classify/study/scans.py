"""The prepared scans behind a study: where they are, and their voxels."""

from __future__ import annotations

from pathlib import Path

from gen3d.classify.settings import StudySettings
from gen3d.classify.study.baselines import Voxels, read_voxels
from gen3d.classify.study.features import Features
from gen3d.cohort.folder import Prepared, open_prepared
from gen3d.core.artefact import read
from gen3d.core.errors import UserError
from gen3d.core.inputs import input_of

SWITCHED_OFF = "the voxel-wise baseline was switched off"
WITHOUT_SCANS = "give prepared=FOLDER, or voxels=false to leave the voxel-wise baseline out (the report says so)"


def open_voxels(settings: StudySettings, features: Features) -> tuple[tuple[Voxels, ...], tuple[str, ...]]:
    """The features of the voxel baselines, and a note where there are none."""
    if not settings.voxels:
        return (), (SWITCHED_OFF,)
    prepared = prepared_behind(settings, features)
    missing = sorted(set(features.table["key"].astype(str)) - set(prepared.manifest["key"].astype(str)))
    if missing:
        raise UserError(
            f"{prepared.folders[0]}: lacks the scan {missing[0]} that is studied; give prepared=FOLDERS of all scans, or "
            "voxels=false."
        )
    return read_voxels(prepared, features.table["key"].astype(str).tolist()), ()


def prepared_behind(settings: StudySettings, features: Features) -> Prepared:
    """The scans: as given, or where the latents came from.

    Raises:
        UserError: they are no longer there.
    """
    folders = list(settings.prepared or ())
    if not folders:
        for folder in (*(settings.latents or ()), *(settings.external or ())):
            folders += scans_behind(folder)
    if not folders:
        raise UserError(
            "the latents do not say which prepared scans they were made from, which the voxel-wise baseline needs; "
            f"{WITHOUT_SCANS}."
        )
    return open_prepared(tuple(dict.fromkeys(folders)))


def scans_behind(folder: Path) -> list[Path]:
    """Prepared folders behind latents, through harmonisation.

    Raises:
        UserError: one of them is not there any more, or something else is.
    """
    artefact = read(folder)
    folders = [input_of(artefact, item, WITHOUT_SCANS) for item in artefact.inputs.get("prepared", [])]
    for item in artefact.inputs.get("latents", []):
        folders += scans_behind(input_of(artefact, item, WITHOUT_SCANS))
    return folders
