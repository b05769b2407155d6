"""Do forecasts of a brain beat doing nothing, and the rate of everybody alike? Simulated visits of known change; real repeats.

Cohorts at 3 mm from two scanners, a third each of controls, MCI (half of them converting) and AD, visits at 0, 1.2 and 3 years with
fresh noise, bias field and head position. Trained on 66 people, cross-fitted in five:

rate      F1: a person's rate of deformation, ridge on the scan and age, sex, diagnosis
network   F1: a small U-Net on top of that
flow      F2: a flow from the scan's latent to that of a later visit
permuted  as rate, with the scans of each person in another order: times say nothing

Each forecasts 36 other people at the same sites from their first visit and from their first two, and everybody is measured against
the true change of all 77 regions, copying the scan forward and the population rate. Nobody's anatomy changes in the null cohort;
there the forecasters of the first cohort and one that learned from 66 people who do not change are measured.

Real people (OASIS-1, scanned twice within weeks, GEN3D_REAL_DATA/t1w_2mm): the forecast at 0 years is the scan; the change that is
measured between the two scans, by registration within people and as the difference of two scans' log-Jacobians, is all error.

    python analysis/23_what_comes_next.py --out next --study rate
    python analysis/23_what_comes_next.py --out next --study network,flow,permuted,null,retest
    python analysis/23_what_comes_next.py --out next --table
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from visits_of_people import SomeVisits, simulated

from gen3d.cli import run_script
from gen3d.cohort.folder import Prepared, open_prepared
from gen3d.core.errors import Unfinished, UserError
from gen3d.core.plain_files import load_object
from gen3d.evaluate.evaluate import Evaluate
from gen3d.forecast.forecast import Forecast
from gen3d.imaging.person_space import person_space
from gen3d.imaging.within_person import log_change, region_log_changes
from gen3d.prepare.prepare import Prepare
from gen3d.train.train import Train

Keys = dict[str, Any]
TRAINED_ON, TESTED, NULL = 66, 36, 36
SEEDS = {"trained": 231, "tested": 232, "still": 233, "still_tested": 234}
YEARS = (1.2, 3.0)
FROM_SECOND = (1.8,)
FOLDS = 5
CHANNELS = ("t1w", "log_jacobian")
FLOW_VAE: Keys = {"model": {"kind": "vae", "latent": "spatial"}, "optim": {"steps": 300, "batch_size": 4}}
MODELS: dict[str, Keys] = {
    "rate": {"model": {"kind": "deformation_rate", "predictor": "ridge"}},
    "network": {
        "model": {"kind": "deformation_rate", "predictor": "network"},
        "optim": {"steps": 300, "batch_size": 4},
    },
    "flow": {"model": {"kind": "latent_flow", "past": 1}, "optim": {"steps": 400, "batch_size": 8}},
    "permuted": {"model": {"kind": "deformation_rate", "predictor": "ridge"}},
}
FEWER_SAMPLES = {"flow": 8}
"""Draws per member where each costs seconds."""
SHOWN = ("region_skill_copy", "region_skill_population", "image_skill_copy", "slope", "sign_accuracy", "crps")
REAL = "GEN3D_REAL_DATA"


@dataclass(frozen=True)
class Place:
    """Where everything lies, and how fine."""

    out: Path
    spacing_mm: float
    workers: int
    trained_on: int
    tested: int

    def cohort(self, name: str) -> Path:
        """A simulated cohort, made if it is not finished."""
        people = self.trained_on if name in ("trained", "still") else self.tested
        progression = 0.0 if name.startswith("still") else 1.0
        folder = self.out / "cohorts" / name
        return simulated(folder, people, SEEDS[name], self.spacing_mm, self.workers, progression)

    def visits(self, cohort: str, first: int) -> Path:
        """The first visits of everybody of a cohort."""
        keys = {"prepared": self.cohort(cohort), "first": first, "out": self.out / "visits" / f"{cohort}_{first}"}
        return SomeVisits.model_validate(keys).run()


def trained(place: Place, name: str, cohort: str = "trained") -> Path:
    """The run of a model."""
    prepared = place.cohort(cohort)
    if name == "permuted":
        keys: Keys = {"prepared": prepared, "times": "permuted", "out": place.out / "visits" / f"{cohort}_permuted"}
        prepared = SomeVisits.model_validate(keys).run()
    shared: Keys = {"prepared": prepared, "cross_fit": FOLDS, "channels": CHANNELS, "track": []}
    if name == "flow":
        vae = place.out / "runs" / f"vae_{cohort}"
        Train.model_validate({**shared, **FLOW_VAE, "out": vae}).run()
        shared["vae"] = vae
    return Train.model_validate({**shared, **MODELS[name], "out": place.out / "runs" / f"{name}_{cohort}"}).run()


def forecast(place: Place, name: str, run: Path, cohort: str, known: int) -> Path:
    """Forecasts of a cohort from the first visits."""
    keys: Keys = {
        "run": run,
        "prepared": place.visits(cohort, known),
        "years": YEARS if known == 1 else FROM_SECOND,
        "pictures": 0,
        "samples": FEWER_SAMPLES.get(name, 16),
        "workers": place.workers,
        "out": place.out / "forecasts" / f"{name}_{cohort}_{known}",
    }
    return Forecast.model_validate(keys).run()


def evaluate(place: Place, name: str, cohort: str, *folders: Path) -> Path:
    """Compared with the whole cohort, whose change is known, and measured as in real people; images where a visit is at most .15
    years from a forecast year."""
    keys: Keys = {
        "forecasts": folders,
        "truth": place.cohort(cohort),
        "tolerance_years": 0.15,
        "workers": place.workers,
    }
    folder = place.out / "evaluations"
    Evaluate.model_validate({**keys, "measured": True, "out": folder / f"{name}_measured"}).run()
    return Evaluate.model_validate({**keys, "out": folder / name}).run()


def of_model(name: str) -> Callable[[Place], None]:
    """The study of one model: from one visit, and from two."""

    def study(place: Place) -> None:
        run = trained(place, name)
        for known in (1, 2):
            evaluate(place, f"{name}_{known}", "tested", forecast(place, name, run, "tested", known))

    return study


def null(place: Place) -> None:
    """People whose anatomy does not change: by the forecaster of those who do, and by one that learned from others like them."""
    for name, cohort in (("rate", "trained"), ("still", "still")):
        run = trained(place, "rate", cohort)
        evaluate(place, f"null_{name}", "still_tested", forecast(place, f"null_{name}", run, "still_tested", 1))


def retest(place: Place) -> None:
    """Real people scanned twice within weeks: what changes by measurement alone, and a forecast at 0 years."""
    real = os.environ.get(REAL)
    if not real:
        raise UserError(f"{REAL} is not set; name the folder of real scans, or leave out the study retest.")
    folder = place.out / "retest" / "prepared"
    source = Path(real) / "t1w_2mm" / "participants.csv"
    try:
        # Ids of different datasets are alike.
        keys: Keys = {"source": source, "out": folder, "spacing_mm": place.spacing_mm, "workers": place.workers}
        Prepare.model_validate({**keys, "columns": {"ids_within_site": True}}).run()
    except Unfinished as error:
        print(error)
    prepared = open_prepared(folder)
    table = prepared.manifest[prepared.manifest["role"] != "excluded"]
    pairs = [tuple(rows["key"].astype(str)[:2]) for _, rows in table.groupby("subject", sort=False) if len(rows) > 1]
    rows = [row for pair in pairs for row in retest_rows(prepared, pair)]
    made = pd.DataFrame(rows)
    made.to_csv(place.out / "retest" / "retest.tsv", sep="\t", index=False)
    spread = made.groupby(["how", "region"])["change"].apply(lambda values: float(np.sqrt(np.mean(values**2) / 2)))
    told = spread.groupby("how").quantile([0.05, 0.5, 0.95]).unstack()
    print(f"{len(pairs)} people scanned twice, within-person SD of log volume, over regions (5, 50 and 95 %):")
    print(told.round(4).to_string())


def retest_rows(prepared: Prepared, pair: tuple[str, ...]) -> list[Keys]:
    """Change of every region between two scans, by registration within the person and as a difference of two scans."""
    earlier, later = (prepared.volume(key, "t1w") for key in pair)
    num = len(prepared.region_table)
    space = person_space(earlier, prepared.plan)
    within = region_log_changes(log_change(earlier, later), space.labels(prepared.regions), num)
    logs = [region_log_changes(prepared.volume(key, "log_jacobian"), prepared.regions, num) for key in pair]
    names = prepared.region_table.sort_values("label")["name"]
    values = {"within the person": within, "two scans": logs[1] - logs[0]}
    return [
        {"how": how, "region": str(name), "change": float(change)}
        for how, changes in values.items()
        for name, change in zip(names, changes, strict=True)
    ]


STUDIES: dict[str, Callable[[Place], None]] = {
    **{name: of_model(name) for name in MODELS},
    "null": null,
    "retest": retest,
}


def table(place: Place) -> None:
    """Print every evaluation there is: skills with intervals and n, coverage, by time and diagnosis."""
    for folder in sorted((place.out / "evaluations").glob("*/metrics.json")):
        metrics = load_object(folder)
        print(f"\n{folder.parent.name}")
        for sentence in metrics["summary"]:
            print(f"  {sentence}")
        for row in metrics["tables"]["skill"]:
            values = "  ".join(f"{name} {told(row, name)}" for name in SHOWN if row.get(name) is not None)
            print(f"  {row['model']:18s} {row['by']}: {row['group']:16s} n {row['num']:3d}  {values}")
        for row in metrics["tables"]["coverage"]:
            if row["by"] in ("all", "horizon"):
                print(
                    f"  {row['model']:18s} {row['group']:16s} {row['level']} %: inside {told(row, 'coverage')}, "
                    f"wide {told(row, 'width')}"
                )


def told(row: Keys, name: str) -> str:
    """A value with its interval."""
    low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
    return f"{row[name]:.3f}" + (f" [{low:.3f}, {high:.3f}]" if low is not None and high is not None else "")


def main() -> None:
    """Run the studies that are named, in this order; what is finished is left alone."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--study", default="", help=f"of {', '.join(STUDIES)}; separated by commas")
    parser.add_argument("--spacing-mm", type=float, default=3.0)
    parser.add_argument("--people", type=int, default=TRAINED_ON, help="people to learn from")
    parser.add_argument("--tested", type=int, default=TESTED)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--table", action="store_true", help="print what there is")
    given = parser.parse_args()
    place = Place(given.out, given.spacing_mm, given.workers, given.people, given.tested)
    for name in filter(None, given.study.split(",")):
        if name not in STUDIES:
            raise UserError(f"there is no study {name}; they are {', '.join(STUDIES)}.")
        STUDIES[name](place)
    if given.table:
        table(place)


if __name__ == "__main__":
    run_script(main)
