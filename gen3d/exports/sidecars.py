"""Names, column descriptions and text files of a BIDS derivatives dataset of anomaly maps.

Names follow BIDS 1.10 (derivatives; entity order `space`, `res`, `desc`) and, for what that does not cover, the
convention that fitlins and nilearn use and BIDS extension proposal 41 describes: `stat-z` and the suffix `statmap`, after
the other entities. What holds for many files stands once, in a JSON file at the top (BIDS' inheritance principle).
"""

from __future__ import annotations

from typing import Any

from gen3d import __version__
from gen3d.cohort.bids_names import BIDS_VERSION, PARTICIPANT_COLUMNS, TEMPLATE_SPACE, label, read_columns

NATIVE_SPACE = "individual"

COLUMNS: dict[str, dict[str, dict[str, Any]]] = read_columns("gen3d.anomaly")
for _table in ("clusters", "control_ranges"):
    COLUMNS[_table]["channel"] = COLUMNS["regions"]["channel"]


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
    meaning = COLUMNS["regions"]["channel"]["Levels"].get(channel, channel)
    sidecar: dict[str, Any] = {
        "Description": f"z map: {meaning}; against controls with the same covariates, "
        "standard normal in controls; 0 outside the brain",
        "Units": "standard deviations",
        "SkullStripped": True,
    }
    if res:
        return sidecar | {"Resolution": {res: f"cubic voxels of {spacing_mm:g} mm on the template"}}
    transform = (
        "the inverse of the deformation and of the affine" if channel == "deformation" else "the inverse of the affine"
    )
    sidecar["SpatialReference"] = "orig"
    sidecar["Description"] += f"; resampled from the template to the voxels of the T1w scan by {transform}, linear"
    return sidecar


def describe_column(name: str, table: str) -> dict[str, Any]:
    """What a column of a table of maps holds; a generic description for an unknown column."""
    known = PARTICIPANT_COLUMNS | COLUMNS[table]
    if name in known:
        return dict(known[name])
    for prefix, entry in COLUMNS["scores"].items():
        if name.startswith(prefix):
            return entry | {"Description": entry["Description"].format(channel=name.removeprefix(prefix))}
    return {"Description": f"column {name} of the table of scans that gen3d anomaly writes"}


def describe_columns(names: list[str], table: str) -> dict[str, Any]:
    """A table's sidecar: one entry per column."""
    return {name: describe_column(name, table) for name in names}


def dataset_description(
    name: str, model: str, sources: list[dict[str, str]], what: str = "z maps and region tables of a normative model"
) -> dict[str, Any]:
    """dataset_description.json."""
    return {
        "Name": name,
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [
            {
                "Name": "gen3d",
                "Version": __version__,
                "Description": f"{what} ({model}) of T1w scans",
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
  desc-controlranges_stats.tsv (maps by a norm)                                       what the norm's controls have by region
  participants.tsv, sub-*/sub-*_sessions.tsv                                          who was scanned when
  methods.md                                                                          what was done, with references and versions

Every column is described in the JSON file of the same name; a JSON file at the top holds for all files whose name ends
with its own (BIDS' inheritance principle). Channels: {channels}.
The maps of residual and structural live in the affinely aligned scan, those of deformation on the template's voxels; in
the scan's own space each was resampled through its own inverse transform.
"""
BIDS_IGNORE = "artefact.json\n.lock\nmethods.md\ngroup_*\n*_stats.*\n*_statmap.*\n"
"""What BIDS has no name for yet; all else is held to its rules."""
