"""What a BIDS derivatives dataset of anomaly maps says about itself: names, column descriptions, and the text files.

Names follow BIDS 1.10 (derivatives; entity order `space`, `res`, `desc`) and, for what that does not cover, the
convention that fitlins and nilearn use and BIDS extension proposal 41 describes: `stat-z` and the suffix `statmap`, after
the other entities. What holds for many files is said once, in a JSON file at the top (BIDS' inheritance principle).
"""

from __future__ import annotations

import re
from typing import Any

from gen3d import __version__
from gen3d.cohort.channels import CHANNEL_MEANINGS
from gen3d.cohort.manifest import scan_key
from gen3d.core.errors import UserError

BIDS_VERSION = "1.10.0"
# nilearn's template is exactly symmetric, on the 197 x 233 x 189 voxel grid of release 2009a (2009c has 193 x 229 x 193).
TEMPLATE_SPACE = "MNI152NLin2009aSym"
NATIVE_SPACE = "individual"

SCAN_COLUMNS: dict[str, dict[str, Any]] = {
    "participant_id": {"Description": "participant, as in participants.tsv"},
    "session_id": {"Description": "session of the participant"},
    "age": {"Description": "age at the scan", "Units": "year"},
    "sex": {"Description": "sex", "Levels": {"F": "female", "M": "male"}},
    "group": {"Description": "diagnosis as given in the source"},
    "site": {"Description": "scanner or study"},
    "role": {
        "Description": "part of the participant in the analysis",
        "Levels": {
            "train": "control that models learned from",
            "calibration": "control that calibrates z scores",
            "test": "control used for nothing, to check false positives",
            "evaluation": "everybody else",
        },
    },
    "flags": {"Description": "reasons to read this scan's numbers with care, in words"},
    "latent_d": {
        "Description": "Mahalanobis distance of the scan's latent from the calibration controls",
        "Units": "standard deviations",
    },
}


def label(text: str) -> str:
    """Text as a BIDS label: letters and digits only."""
    return re.sub(r"[^0-9A-Za-z]", "", text)


def stem(subject: str, session: str) -> str:
    """`sub-X_ses-Y`, or `sub-X` for a scan without a session."""
    return scan_key(label(subject), label(session)) if label(session) else f"sub-{label(subject)}"


def check_labels(subjects: list[tuple[str, str]]) -> None:
    """Refuse ids that are told apart only by characters that a BIDS label may not hold.

    Raises:
        UserError: naming the ids.
    """
    seen: dict[str, tuple[str, str]] = {}
    for subject, session in subjects:
        name = stem(subject, session)
        if not label(subject) or seen.setdefault(name, (subject, session)) != (subject, session):
            raise UserError(
                f"subject {subject!r}, session {session!r}: as a BIDS label this is {name}, which is empty or taken by "
                f"{seen.get(name, ('', ''))}; rename it in the source, with letters and digits only."
            )


def resolution(spacing_mm: float) -> str:
    """The label of the entity `res`: 2mm, 2p5mm."""
    return f"{spacing_mm:g}mm".replace(".", "p")


def statmap(name: str, channel: str, space: str, res: str = "") -> str:
    """File name without extension of a z map; with an empty `name` that of the sidecar at the top of the dataset."""
    parts = [name, f"space-{space}", f"res-{res}" if res else "", f"desc-{label(channel)}", "stat-z", "statmap"]
    return "_".join(part for part in parts if part)


def mask(name: str, channel: str, res: str) -> str:
    """File name without extension of the voxels that survive the false discovery rate."""
    parts = [name, f"space-{TEMPLATE_SPACE}", f"res-{res}", f"desc-{label(channel)}FDR", "mask"]
    return "_".join(part for part in parts if part)


def statmap_sidecar(channel: str, res: str, spacing_mm: float) -> dict[str, Any]:
    """What holds for every z map of a channel; `res` is empty for maps in the scan's own space."""
    sidecar: dict[str, Any] = {
        "Description": f"z map: {CHANNEL_MEANINGS.get(channel, channel)}; against controls with the same covariates, "
        "standard normal in controls; 0 outside the brain",
        "Units": "standard deviations",
        "SkullStripped": True,
    }
    if res:
        return sidecar | {"Resolution": {res: f"cubic voxels of {spacing_mm:g} mm on the template"}}
    brought = (
        "the inverse of the deformation and of the affine" if channel == "deformation" else "the inverse of the affine"
    )
    sidecar["SpatialReference"] = "orig"
    sidecar["Description"] += f"; brought from the template to the voxels of the T1w scan by {brought}, linear"
    return sidecar


def dataset_description(name: str, model: str, sources: list[dict[str, str]]) -> dict[str, Any]:
    """dataset_description.json."""
    return {
        "Name": name,
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [
            {
                "Name": "gen3d",
                "Version": __version__,
                "Description": f"z maps and region tables of a normative model ({model}) of T1w scans",
            }
        ],
        "SourceDatasets": sources,
    }


README = """\
z maps and region tables of T1w scans, made by gen3d {version} with a normative model ({model}).
For research; not for the diagnosis or care of a person.

Layout
  sub-*/[ses-*/]anat/*_space-{space}_res-{res}_desc-<channel>_stat-z_statmap.nii.gz   z map on the template
  sub-*/[ses-*/]anat/*_space-{space}_res-{res}_desc-<channel>FDR_mask.nii.gz          voxels with q < {q:g} within the map
  sub-*/[ses-*/]anat/*_space-individual_desc-<channel>_stat-z_statmap.nii.gz          z map on the scan's own voxels
  sub-*/[ses-*/]anat/*_desc-regions_stats.tsv                                         one row per channel and region
  group_desc-regions_stats.tsv, group_desc-scans_stats.tsv, group_desc-clusters_stats.tsv   all scans in one table
  participants.tsv, sub-*/sub-*_sessions.tsv                                          who was scanned when

Every column is described in the JSON file of the same name; a JSON file at the top holds for all files whose name ends
with its own (BIDS' inheritance principle). Channels: {channels}.
The maps of residual and structural live in the affinely aligned scan, those of deformation on the template's voxels; in
the scan's own space each was brought back through its own inverse transform.
"""
BIDS_IGNORE = "artefact.json\n.lock\ngroup_*\n*_stats.*\n*_statmap.*\n*FDR_mask.*\n"
