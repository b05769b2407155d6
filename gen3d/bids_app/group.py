"""The group level: the participants' tables in one, and one page of everybody."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from gen3d.bids_app.dataset import PersonScans
from gen3d.bids_app.participant import DATASET, MAPS, PAGE, PREPARED, REPORT, write_table_once
from gen3d.bids_app.settings import AppCall, is_finished
from gen3d.core import words
from gen3d.core.artefact import record_of
from gen3d.core.errors import Unfinished, UserError
from gen3d.core.progress import say
from gen3d.core.tables import read_cells, write_table
from gen3d.exports.placing import place
from gen3d.verbs import verb_class

PEOPLE = "participants.tsv"
MOST_NAMED = 10


def run_group(call: AppCall, people: list[PersonScans]) -> None:
    """Join what the participant level wrote; participants whose results are not there are named.

    The page is made of maps that the norm makes anew of everybody's prepared scans: they are those of the participants, since a
    norm judges each scan by itself.

    Raises:
        UserError: nobody has results.
        Unfinished: some have none.
    """
    done = [person for person in people if is_finished(call.folder_of(person) / DATASET)]
    if not done:
        raise UserError(
            f"{call.work}: no participant has results there; run the participant level first, with the same OUT and --work-dir."
        )
    folders = [call.folder_of(person) for person in done]
    _join_tables(call.out, [folder / DATASET for folder in folders])
    prepared = [folder / PREPARED for folder in folders]
    page = _page(call, prepared, [folder / MAPS for folder in folders])
    place(page, call.out / "group.html")
    say(f"{call.out}: tables and a page of {words.people(len(done))}: {call.out / 'group.html'}")
    without = [person.name for person in people if person not in done]
    if without:
        named = ", ".join(without[:MOST_NAMED]) + (", ..." if len(without) > MOST_NAMED else "")
        raise Unfinished(
            f"{words.people(len(without))} without results ({named}); run the participant level for them, then this again."
        )


def _join_tables(out: Path, datasets: list[Path]) -> None:
    """One table of each kind from those of the participants, rows in their order, with the sidecar that describes it."""
    names = dict.fromkeys(path.name for folder in datasets for path in sorted(folder.glob("group_*_stats.tsv")))
    for name in (*names, PEOPLE):
        parts = [read_cells(folder / name) for folder in datasets if (folder / name).is_file()]
        write_table(out / name, pd.concat(parts, ignore_index=True).astype(object).fillna("n/a"))
        sidecar = name.replace(".tsv", ".json")
        described = next((folder / sidecar for folder in datasets if (folder / sidecar).is_file()), None)
        if described is not None:
            write_table_once(out / sidecar, described.read_text(encoding="utf-8"))


def _page(call: AppCall, prepared: list[Path], maps: list[Path]) -> Path:
    """The page of the group; that of a single participant is the participant's."""
    folder = call.group_folder([str((record_of(one) or {}).get("key")) for one in maps])
    steps = {
        "anomaly": {
            "norm": call.norm.folder,
            "prepared": prepared,
            "native": False,
            "workers": call.workers(len(prepared)),
            "out": folder / MAPS,
        },
        "report": {
            "inputs": [folder / MAPS, *prepared],
            "list_missing": False,
            "title": f"{call.dataset.description['Name']}: everybody against healthy controls",
            "out": folder / REPORT,
        },
    }
    for verb, settings in steps.items():
        verb_class(verb).model_validate(settings).run()
    return folder / REPORT / PAGE
