"""The derivatives dataset of `gen3d-bids`: whose results it may hold, and the files that describe it as a whole."""

from __future__ import annotations

import json
from typing import Any

from gen3d import __version__
from gen3d.bids_app.dataset import DESCRIPTION
from gen3d.bids_app.participant import write_table_once
from gen3d.bids_app.settings import WORK, AppCall
from gen3d.cohort.bids_names import BIDS_VERSION, TEMPLATE_SPACE, resolution
from gen3d.core.artefact import write_atomic
from gen3d.core.errors import UserError
from gen3d.core.plain_files import load_object
from gen3d.exports.sidecars import BIDS_IGNORE, README

NAME = "gen3d-bids"
PAGES = "sub-*.html\ngroup.html\n"


def begin_dataset(call: AppCall) -> None:
    """Describe the dataset, before its first result.

    Raises:
        UserError: the folder holds results of another norm, dataset, site or version.
    """
    described, path = _description(call), call.out / DESCRIPTION
    if path.is_file():
        try:
            there = load_object(path)
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: damaged ({error}); give another folder as OUT.") from None
        if there != json.loads(json.dumps(described)):
            raise UserError(
                f"{call.out}: describes a dataset of another norm, source, site or version of gen3d; give a new folder as OUT."
            )
    else:
        write_atomic(path, json.dumps(described, indent=1) + "\n")
    channels = call.norm.map_channels
    fields: dict[str, Any] = {"version": __version__, "model": f"by the norm {call.norm.folder.resolve().name}"}
    fields |= {"space": TEMPLATE_SPACE, "res": resolution(call.norm.plan.spacing_mm), "q": 0.05}
    write_table_once(call.out / "README", README.format(**fields, channels=", ".join(channels)))
    write_table_once(call.out / ".bidsignore", f"{BIDS_IGNORE}{PAGES}{WORK}\n")


def _description(call: AppCall) -> dict[str, Any]:
    norm = call.norm
    by = f"z maps and region tables of T1w scans, judged by the norm {norm.folder.resolve().name} (key {norm.artefact.key})"
    site = f"; all scans as of the site {call.site}" if call.site else ""
    return {
        "Name": f"Normative maps of {call.dataset.description['Name']}",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": NAME, "Version": __version__, "Description": f"{by}{site}"}],
        "SourceDatasets": call.dataset.described,
    }
