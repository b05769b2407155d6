"""One participant: prepare, anomaly, export and report, each the verb of that name with a folder of its own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gen3d.bids_app.dataset import PersonScans
from gen3d.bids_app.settings import AppCall
from gen3d.cohort.methods import METHODS
from gen3d.core.artefact import write_atomic
from gen3d.core.errors import Unfinished, UserError
from gen3d.exports.placing import place
from gen3d.verbs import verb_class

TABLE, PREPARED, MAPS, DATASET, REPORT = "scans.csv", "prepared", "maps", "dataset", "report"
PAGE = "index.html"


@dataclass(frozen=True)
class Outcome:
    """How a participant went: `remark` says what could not be used, "" for nothing; `done` whether there are results."""

    name: str
    done: bool
    remark: str = ""


def run_person(call: AppCall, person: PersonScans) -> Outcome:
    """Run every step of a participant that is not finished, and put the results into the dataset.

    What is wrong with one participant does not stop the others: it is the remark of the outcome.
    """
    folder, remark = call.folder_of(person), ""
    table = folder / TABLE
    write_table_once(table, person.table(call.site).to_csv(index=False))
    try:
        prepare = call.prepare | {"source": table, "out": folder / PREPARED}
        try:
            verb_class("prepare").model_validate(prepare).run()
        except Unfinished as error:
            remark = str(error).splitlines()[-1]
        _judge_and_export(call, folder, person.name)
    except UserError as error:
        return Outcome(person.name, False, remark or str(error))
    _place_results(call, folder, person.name)
    return Outcome(person.name, True, remark)


def write_table_once(path: Path, text: str) -> None:
    """Write a text if the file does not hold it already."""
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        write_atomic(path, text)


def _judge_and_export(call: AppCall, folder: Path, name: str) -> None:
    prepared, maps = folder / PREPARED, folder / MAPS
    steps = {
        "anomaly": {"norm": call.norm.folder, "prepared": prepared, "native": False, "workers": 1, "out": maps},
        "export": {
            "maps": maps,
            "prepared": prepared,
            "native": call.native,
            "source": call.dataset.sources,
            "workers": 1,
            "out": folder / DATASET,
        },
        "report": {
            "inputs": [maps, prepared],
            "list_missing": False,
            "title": f"{name} against healthy controls",
            "out": folder / REPORT,
        },
    }
    for verb, settings in steps.items():
        verb_class(verb).model_validate(settings).run()


def _place_results(call: AppCall, folder: Path, name: str) -> None:
    """Hard links or copies of the participant's files, and the descriptions that all participants share."""
    dataset = folder / DATASET
    for path in sorted(dataset.glob(f"{name}/**/*")):
        if path.is_file():
            place(path, call.out / path.relative_to(dataset))
    for path in sorted(dataset.glob("*.json")):
        if path.name.startswith(("space-", "desc-")) or path.name == "sessions.json":
            write_table_once(call.out / path.name, path.read_text(encoding="utf-8"))
    for path in sorted(dataset.glob("desc-*.tsv")):
        write_table_once(call.out / path.name, path.read_text(encoding="utf-8"))
    write_table_once(call.out / METHODS, (dataset / METHODS).read_text(encoding="utf-8"))
    place(folder / REPORT / PAGE, call.out / f"{name}.html")
