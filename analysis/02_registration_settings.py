"""Which registration, and which measure of its log-Jacobian, shows hippocampal atrophy best?

Copies of real control scans are made in which both hippocampi are smaller by exactly 12, 24 and 40 %, with fresh noise
(`02_registration_pairs.py`). Every registration (`02_registration_methods.py`) measures healthy and atrophied copies. People
are split in two halves within each site: everything is chosen on the half "choose" (healthy and -24 %) and reported on the
half "report", with intervals over people. Only the regression on age, age squared, sex and site uses everyone except the
person who is scored. `02_registration_measures.py` holds the measures of a region and the statistics.

    gen3d prepare source=.../participants.csv out=PREPARED spacing_mm=2.5
    GEN3D_REAL_DATA=... python analysis/02_registration_settings.py --prepared PREPARED --out FOLDER

With GEN3D_REAL_DATA naming a folder that holds t1w_malf_oasis1, hippocampi drawn by hand are shrunk too, and measures
of healthy scans are compared with the drawn volumes. Rows of DIPY and ANTsPy appear only where these packages can be
imported (they are not among gen3d's requirements). Figures repeat exactly with OMP_NUM_THREADS=1 and
ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS=1; N4 sums in another order on several threads. Every registration is kept in
FOLDER: a second call goes on. Screening costs 30 registrations a row, a reported row about 105 more; `--without` leaves
rows out.
"""

from __future__ import annotations

import argparse
import importlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import ndimage

from gen3d.cli import run_script
from gen3d.cohort.folder import Prepared, open_prepared
from gen3d.cohort.regions import all_regions, regions_on
from gen3d.core.errors import UserError
from gen3d.core.progress import say
from gen3d.imaging.plan import GridPlan, plan_grid
from gen3d.imaging.template import template_on

pairs: Any = importlib.import_module(
    "02_registration_pairs"
)  # a name that begins with a number cannot be imported plainly
methods: Any = importlib.import_module("02_registration_methods")
measured: Any = importlib.import_module("02_registration_measures")

CHOSEN_AT = -24
NUM_CHANGED = 8  # people of the first half whose -24 % copy is screened: the shift varies less than healthy people do
ALWAYS = ("default",)  # registrations that are reported whatever the screening selects
DRAWN = "drawn-24"  # name of the copy whose hand-drawn hippocampi are smaller
PLAIN = "mean log-J"
SIDES = ("left", "right", "mean")
CHANGES: tuple[int, ...] = pairs.CHANGES_PERCENT[1:]


def main() -> None:
    """Screen on one half, report on the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--prepared", type=Path, required=True, help="scans prepared at 2.5 mm, with their sources in place"
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--finalists", type=int, default=4, help="best rows of the screening that are reported")
    parser.add_argument("--also", nargs="*", default=[], help="rows reported besides those that win the screening")
    parser.add_argument("--first", nargs="*", default=[], help="rows to begin with")
    parser.add_argument("--without", nargs="*", default=[], help="rows left out")
    parser.add_argument("--screening-only", action="store_true", help="stop before anything is reported")
    arguments = parser.parse_args()
    prepared = open_prepared(arguments.prepared)
    people = pairs.control_people(prepared)
    if len(people) < 20:
        raise UserError(f"{arguments.prepared}: {len(people)} controls; two halves need at least 20.")
    arguments.out.mkdir(parents=True, exist_ok=True)
    study = Study(prepared, people, arguments.out)
    rows = [row for row in methods.methods_to_try() if row.name not in arguments.without]
    rows.sort(key=lambda row: [*arguments.first, row.name].index(row.name))
    screened = screening(study, rows)
    show(screened, arguments.out / "screening.tsv")
    if arguments.screening_only:
        return
    names = [*ALWAYS, *arguments.also]
    names += [name for name in screened["registration"] if name not in names][: arguments.finalists]
    finalists = [row for row in rows if row.name in names]
    drawn = labelled_scans(people)
    for row in finalists:
        study.run(row, people["key"].tolist(), (0,))
        study.run(row, people["key"].iloc[study.half("report")].tolist(), pairs.CHANGES_PERCENT)
        study.run(row, pairs.people_scanned_twice(prepared)["key"].tolist(), ("scan",))
        study.run(row, list(drawn), (DRAWN,), drawn)
    show(settings_table(study, finalists), arguments.out / "settings.tsv")
    by_measure = measures_table(study, finalists)
    show(by_measure, arguments.out / "measures.tsv")
    best = by_measure["measure"].iloc[0]
    if drawn:
        show(drawn_table(study, finalists, drawn), arguments.out / "drawn.tsv")
    show(paired_table(study, finalists, tuple(dict.fromkeys((PLAIN, best)))), arguments.out / "paired.tsv")


class Study:
    """The people, and the folder in which every registration is kept."""

    def __init__(self, prepared: Prepared, people: pd.DataFrame, out: Path) -> None:
        self.prepared, self.people, self.out = prepared, people, out
        (out / "copies").mkdir(exist_ok=True)
        self._hippocampi: dict[float, Any] = {}
        self._values: dict[tuple[str, str, Any], dict[str, Any]] = {}

    def half(self, name: str) -> np.ndarray:
        """Positions of the people of one half."""
        return np.flatnonzero(self.people["half"] == name)

    def plan(self, spacing_mm: float) -> GridPlan:
        """The prepared grid, or another."""
        own = self.prepared.plan
        return own if spacing_mm == own.spacing_mm else plan_grid(spacing_mm)

    def run(self, row: Any, keys: list[str], changes: tuple[Any, ...], drawn: dict[str, Path] | None = None) -> None:
        """Register what is not yet registered: copies by their change, "scan" as it was prepared, or `DRAWN`."""
        plan = self.plan(row.spacing_mm)
        template = template_on(plan)
        if plan != self.prepared.plan and changes in (("scan",), (DRAWN,)):
            return
        for key in keys:
            wanted = [change for change in changes if not self.path(row, key, change).is_file()]
            volumes: dict[Any, np.ndarray] = {}
            if wanted == ["scan"]:
                volumes = {"scan": self.prepared.volume(key, "t1w")}
            elif wanted == [DRAWN] and drawn:
                volumes = {DRAWN: pairs.drawn_copy(self.prepared, key, drawn[key], CHOSEN_AT, self.out / "copies")}
            elif wanted:
                volumes = pairs.copies(self.prepared, key, row.spacing_mm, self.out / "copies")
            for change in wanted:
                found = methods.estimate(row, template.t1w, volumes[change], template.mask)
                self.keep(self.path(row, key, change), found, plan)

    def path(self, row: Any, key: str, change: Any) -> Path:
        """Where one registration is kept."""
        return self.out / "maps" / row.slug / f"{key}_{change}.npz"

    def keep(self, path: Path, found: Any, plan: GridPlan) -> None:
        """Store the maps inside the brain, and region means at full precision."""
        path.parent.mkdir(parents=True, exist_ok=True)
        labels, template = regions_on(plan), template_on(plan)
        partial = path.with_name(f".{path.name}")
        np.savez(
            partial,
            log_jacobian=found.log_jacobian[template.mask].astype(np.float16),
            warped=found.warped[template.mask].astype(np.float16),
            regions=ndimage.mean(found.log_jacobian, labels, np.arange(1, len(all_regions()) + 1)),
            white_sd=found.log_jacobian[template.wm > 0.95].std(),
            folded=found.folded_percent,
            seconds=found.seconds,
        )
        partial.rename(path)

    def values(self, row: Any, key: str, change: Any) -> dict[str, Any]:
        """All measures of one registration: by (side, measure), and white_sd, folded, seconds, regions."""
        place = (row.name, key, change)
        if place not in self._values:
            plan = self.plan(row.spacing_mm)
            where = self._hippocampi.setdefault(row.spacing_mm, measured.Hippocampi(plan))
            with np.load(self.path(row, key, change)) as stored:
                found = {name: stored[name] for name in ("regions", "white_sd", "folded", "seconds")}
                maps = [np.zeros(plan.shape, np.float32) for _ in range(2)]
                for volume, name in zip(maps, ("log_jacobian", "warped"), strict=True):
                    volume[where.mask] = stored[name]
            left, right = (measured.measures(*maps, where, side) for side in ("left", "right"))
            for name in left:
                found["left", name], found["right", name] = left[name], right[name]
                found["mean", name] = (left[name] + right[name]) / 2
            self._values[place] = found
        return self._values[place]

    def names(self, row: Any) -> list[str]:
        """Names of the measures."""
        some = self.values(row, self.people["key"].iloc[0], 0)
        return [place[1] for place in some if isinstance(place, tuple) and place[0] == "left"]

    def reported(self, row: Any, measure: str, side: str) -> tuple[Any, np.ndarray]:
        """Scores of everyone, and rows of the reporting half; changed copies of the other half are NaN."""
        report = self.half("report")
        healthy = np.array([self.values(row, key, 0)[side, measure] for key in self.people["key"]])
        changed = np.full((len(healthy), len(CHANGES)), np.nan)
        for person in report:
            key = self.people["key"].iloc[person]
            changed[person] = [self.values(row, key, change)[side, measure] for change in CHANGES]
        left_out, moved = measured.residuals(healthy, changed, self.people)
        return measured.Scores(left_out, moved, moved - left_out[:, None], changed - healthy[:, None], CHANGES), report

    def quality(self, row: Any) -> dict[str, Any]:
        """Measures that do not depend on the planted change: retest SD, SD in white matter, folding, seconds."""
        twice = pairs.people_scanned_twice(self.prepared)
        line: dict[str, Any] = {}
        if row.spacing_mm == self.prepared.plan.spacing_mm:
            both = [
                [self.values(row, key, "scan") for key in scans["key"].iloc[:2]]
                for _, scans in twice.groupby("subject")
            ]
            regions = np.array([[scan["regions"] for scan in scans] for scans in both])
            line["retest_sd_regions"] = round(
                float(np.median(np.sqrt((np.diff(regions, axis=1) ** 2).mean(axis=0) / 2))), 4
            )
            sides = np.array([[[scan[side, PLAIN] for side in ("left", "right")] for scan in scans] for scans in both])
            line["retest_sd_hippocampus"] = round(float(np.sqrt((np.diff(sides, axis=1) ** 2).mean() / 2)), 4)
        healthy = [self.values(row, key, 0) for key in self.people["key"]]
        line["white_sd"] = round(float(np.mean([value["white_sd"] for value in healthy])), 3)
        line["folded_percent"] = round(float(np.max([value["folded"] for value in healthy])), 3)
        line["seconds"] = round(float(np.median([value["seconds"] for value in healthy])), 1)
        return line


def screening(study: Study, rows: list[Any]) -> pd.DataFrame:
    """Every registration on the selecting half: SD of healthy people, and recovery of -24 % in some of them."""
    people = study.people.iloc[study.half("choose")].reset_index(drop=True)
    some = np.linspace(0, len(people) - 1, NUM_CHANGED).astype(int)
    table = []
    for row in rows:
        study.run(row, people["key"].tolist(), (0,))
        study.run(row, people["key"].iloc[some].tolist(), (CHOSEN_AT,))
        table.append(screened(study, row, people, some))
        say(" | ".join(f"{name} {value}" for name, value in table[-1].items()))
        pd.DataFrame(table).to_csv(study.out / "screening.tsv", sep="\t", index=False)
    return pd.DataFrame(table).sort_values("separation", ascending=False)


def screened(study: Study, row: Any, people: pd.DataFrame, some: np.ndarray) -> dict[str, Any]:
    """One line of the screening: separation by every measure, the rest for the plain mean."""
    healthy = [study.values(row, key, 0) for key in people["key"]]
    changed = [study.values(row, key, CHOSEN_AT) for key in people["key"].iloc[some]]
    separation = {}
    for name in study.names(row):
        values = np.array([value["mean", name] for value in healthy])
        spread = measured.residuals(values, values[:, None], people)[0].std(ddof=1)
        shift = np.array([value["mean", name] for value in changed]) - values[some]
        separation[name] = float(-shift.mean() / spread)
        if name == PLAIN:
            line = {
                "registration": row.name,
                "separation": round(separation[name], 2),
                "recovered": round(float(shift.mean() / np.log1p(CHOSEN_AT / 100)), 3),
                "healthy_sd": round(float(spread), 4),
            }
    everything = [*healthy, *changed]
    line |= {
        "white_sd": round(float(np.mean([value["white_sd"] for value in healthy])), 3),
        "folded_percent": round(float(np.max([value["folded"] for value in everything])), 3),
        "seconds": round(float(np.median([value["seconds"] for value in everything])), 2),
    }
    return line | {name: round(value, 2) for name, value in separation.items()}


def settings_table(study: Study, rows: list[Any], measure: str = PLAIN) -> pd.DataFrame:
    """One line per registration and side on the reporting half; the regression and the ranks use everyone's healthy scans."""
    lines = []
    for row in rows:
        for side in SIDES:
            scores, report = study.reported(row, measure, side)
            lines.append({"registration": row.name, "measure": measure, "side": side} | summary(scores, report))
            if side == "mean":
                lines[-1] |= study.quality(row)
    return pd.DataFrame(lines)


def summary(scores: Any, report: np.ndarray) -> dict[str, Any]:
    """Shares, separations, AUCs and detection of one registration, measure and side, with 95 % intervals over people."""
    chosen = report[measured.resamples(len(report))]
    drawn = [scores.of(people) for people in chosen]
    own = scores.of(report)
    line: dict[str, Any] = {"n": len(report), "healthy_sd": round(float(own.healthy.std(ddof=1)), 3)}
    line["false_positives"] = measured.wilson(int(measured.detected(scores, None)[report].sum()), len(report))
    for column, change in enumerate(CHANGES):
        for name, digits in (("recovered", 2), ("separation", 2), ("auc", 2)):
            values = [getattr(one, name)(column) for one in drawn]
            value = getattr(own, name)(column)
            line[f"{name}_{-change}"] = f"{value:.{digits}f} {measured.interval(values, digits)}"
        found = int(measured.detected(scores, column)[report].sum())
        line[f"detected_{-change}"] = measured.wilson(found, len(report))
    return line


def measures_table(study: Study, rows: list[Any]) -> pd.DataFrame:
    """Every measure of the region: separation at -24 % on the selecting half, results on the reporting half."""
    choosing = study.people.iloc[study.half("choose")].reset_index(drop=True)
    some = np.linspace(0, len(choosing) - 1, NUM_CHANGED).astype(int)
    lines = []
    for row in rows:
        chosen = screened(study, row, choosing, some)
        for name in study.names(row):
            scores, report = study.reported(row, name, "mean")
            line = {"registration": row.name, "measure": name, "separation when choosing": chosen[name]}
            lines.append(line | summary(scores, report))
    return pd.DataFrame(lines).sort_values("separation when choosing", ascending=False)


def paired_table(study: Study, rows: list[Any], measures: tuple[str, ...]) -> pd.DataFrame:
    """Each registration and measure against the default and the plain mean: difference over the same resampled people."""
    lines = []
    for side in SIDES:
        reference, report = study.reported(next(row for row in rows if row.name == ALWAYS[0]), PLAIN, side)
        chosen = report[measured.resamples(len(report))]
        for row in rows:
            for measure in measures:
                scores, _ = study.reported(row, measure, side)
                line: dict[str, Any] = {"registration": row.name, "measure": measure, "side": side}
                for column, change in enumerate(CHANGES):
                    for name in ("separation", "auc"):
                        pairs_of = [(scores.of(people), reference.of(people)) for people in chosen[:1000]]
                        gains = [getattr(a, name)(column) - getattr(b, name)(column) for a, b in pairs_of]
                        gain = getattr(scores.of(report), name)(column) - getattr(reference.of(report), name)(column)
                        line[f"{name}_{-change}"] = f"{gain:+.2f} {measured.interval(gains)}"
                lines.append(line)
    return pd.DataFrame(lines)


def labelled_scans(people: pd.DataFrame) -> dict[str, Path]:
    """Label files of the OASIS-1 people whose hippocampi were drawn by hand, by key; empty without GEN3D_REAL_DATA."""
    folder = Path(os.environ.get("GEN3D_REAL_DATA", "")) / "t1w_malf_oasis1"
    if not (folder / "demographics.csv").is_file():
        return {}
    table = pd.read_csv(folder / "demographics.csv").drop_duplicates("Subject")
    found = {}
    for number, subject in zip(table["id"], table["Subject"], strict=True):
        own = people.loc[people["subject"] == f"oasis1{subject.replace('_', '')}", "key"]
        path = folder / f"{number}_glm.nii.gz"
        if len(own) and path.is_file():
            found[str(own.iloc[0])] = path
    return found


def drawn_table(study: Study, rows: list[Any], drawn: dict[str, Path]) -> pd.DataFrame:
    """Share recovered where hand-drawn hippocampi shrank by 24 %, and correlation with hand-drawn volumes of healthy scans."""
    volumes = np.array([pairs.drawn_hippocampi(study.prepared, key, path)[1] for key, path in drawn.items()]).mean(
        axis=1
    )
    chosen = measured.resamples(len(drawn))
    lines = []
    for row in rows:
        if row.spacing_mm != study.prepared.plan.spacing_mm:
            continue
        for name in study.names(row):
            healthy, changed = (
                np.array([study.values(row, key, change)["mean", name] for key in drawn]) for change in (0, DRAWN)
            )
            share = (changed - healthy) / np.log1p(CHOSEN_AT / 100)
            r = [np.corrcoef(healthy[people], volumes[people])[0, 1] for people in chosen]
            line = {"registration": row.name, "measure": name, "n": len(drawn)}
            line["recovered"] = f"{share.mean():.2f} {measured.interval(share[chosen].mean(axis=1))}"
            line["r_with_drawn"] = f"{np.corrcoef(healthy, volumes)[0, 1]:.2f} {measured.interval(r)}"
            lines.append(line)
    return pd.DataFrame(lines)


def show(table: pd.DataFrame, path: Path) -> None:
    """Write and print."""
    table.to_csv(path, sep="\t", index=False)
    say(table.to_string(index=False))


if __name__ == "__main__":
    run_script(main)
