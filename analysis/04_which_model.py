"""Which normative model detects what is planted in real brains, without false positives where nothing is?

Inputs: a prepared cohort with controls (`gen3d prepare`) and, for lesions of real shape, a folder of masks in MNI
space. Makes the truth bench (`gen3d simulate base=...`: seven twins of every control), trains every candidate with the
same steps and seeds, maps cohort and bench, and compares on the SAME people: those on whom no candidate was trained, or
all people if every candidate is cross-fitted. Thresholds come from the cohort's controls. Prints one markdown table per
question and writes them as TSV: lesions by size (voxels, people; paired differences in AUPRC to the residual of
`--baseline`), hippocampal loss by severity, null twins. A second run with other candidates or another baseline reuses
what is finished.

    python analysis/04_which_model.py --prepared real/prepared --masks masks --out bench
    python analysis/04_which_model.py --prepared P --masks M --out CROSSED --cross-fit 5 --models pca restorer "restorer and pca"
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from gen3d.anomaly.anomaly import Anomaly
from gen3d.cli import run_script
from gen3d.evaluate.truth import CohortTruth, EvaluatedMaps, open_maps, open_truth
from gen3d.evaluate.voxels_and_people import Settings, null_rows, voxel_scores
from gen3d.maths.significance import conformal_p
from gen3d.maths.stats import Interval, delong_interval, wilson_interval
from gen3d.simulate.simulate import Simulate
from gen3d.train.train import Train

T1W, VOLUME = {"channels": ["t1w"]}, {"channels": ["log_jacobian"]}
FLIP = {"augment": {"flip": True}}
CANDIDATES: dict[str, dict[str, Any]] = {
    "pca": {"model": {"kind": "pca", "num_components": 20}, "cross_fit": 5, **T1W},
    "voxelwise": {"model": {"kind": "voxelwise"}, "cross_fit": 5},
    "pca volume": {"model": {"kind": "pca", "num_components": 20}, "cross_fit": 5, **VOLUME},
    "vae": {"model": {"kind": "vae"}, **T1W, **FLIP},
    "vae joint": {"model": {"kind": "vae"}, **FLIP},
    "vae volume": {"model": {"kind": "vae"}, **VOLUME, **FLIP},
    "restorer": {"model": {"kind": "restorer"}, **T1W, **FLIP},
    "restorer joint": {"model": {"kind": "restorer"}, **FLIP},
}
TOGETHER = {"restorer and pca": ("restorer", "pca")}
"""EvaluatedMaps whose prediction is the mean of the predictions of several candidates above."""
FEWEST_CONTROLS = 19
BENCH = Path(__file__).parents[1] / "configs" / "simulate" / "truth_bench.yaml"
LESIONS = ("lesion_small", "lesion_medium", "lesion_large")
LOSSES = {"hip12": -12, "hip24": -24, "hip40": -40}
SETTINGS = Settings(q=0.05, bootstrap=2000, seed=0, changed_log_jacobian=0.1)


def main() -> None:
    """Make what is not finished, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prepared", type=Path, required=True, help="prepared cohort with controls")
    parser.add_argument("--masks", type=Path, help="folder of lesion masks in MNI space; none: irregular blobs")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--steps", type=int, default=400, help="training steps of every network")
    known = [*CANDIDATES, *TOGETHER]
    parser.add_argument("--models", nargs="*", default=known, choices=known, help="candidates")
    parser.add_argument("--baseline", default="pca", choices=known, help="candidate that differences are taken to")
    parser.add_argument("--cross-fit", type=int, help="members of every network; default 1")
    parser.add_argument("--batch", type=int, default=4, help="volumes per step")
    given = parser.parse_args()
    if given.baseline in given.models:  # differences are to candidates earlier in the list
        given.models = [given.baseline, *(name for name in given.models if name != given.baseline)]
    bench = make_bench(given.prepared, given.out / "bench", given.masks)
    folders = [make_maps(given, name, bench) for name in given.models]
    truth = open_truth(bench)
    maps = [replace(m, name=name) for m, name in zip(open_maps(folders, truth), given.models, strict=True)]
    for title, table in tables(maps, truth, given.baseline).items():
        table.to_csv(given.out / f"{title.split(',')[0].replace(' ', '_')}.tsv", sep="\t", index=False)
        print(f"\n{title}\n\n{markdown(table)}")


def markdown(table: pd.DataFrame) -> str:
    """A table as markdown."""
    rows = [list(table.columns), ["---"] * len(table.columns), *table.astype(str).to_numpy().tolist()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def make_bench(prepared: Path, out: Path, masks: Path | None) -> Path:
    """Seven twins of every control of the cohort."""
    conditions = yaml.safe_load(BENCH.read_text(encoding="utf-8"))["conditions"]
    if masks is not None:
        for name in LESIONS:
            conditions[name]["masks"] = masks
    return Simulate.model_validate({"base": prepared, "out": out, "conditions": conditions}).run()


def make_maps(given: argparse.Namespace, name: str, bench: Path) -> Path:
    """Train one candidate, or each member of a combination, and make maps of cohort and bench."""
    runs = [train(given, part) for part in TOGETHER.get(name, (name,))]
    prepared, out = [given.prepared, bench], given.out / "maps" / name.replace(" ", "_")
    keys = {"prepared": prepared, "run": runs, "out": out, "native": False, "samples": 0}
    return Anomaly.model_validate(keys).run()


def train(given: argparse.Namespace, name: str) -> Path:
    """The run folder of one candidate; a finished one is left alone."""
    settings = dict(CANDIDATES[name])
    if "cross_fit" not in settings:
        settings["optim"] = {"steps": given.steps, "batch_size": given.batch}
        settings["cross_fit"] = given.cross_fit or 1
    run = given.out / "runs" / name.replace(" ", "_")
    return Train.model_validate({"prepared": given.prepared, "out": run, **settings}).run()


def tables(maps: Sequence[EvaluatedMaps], truth: CohortTruth, baseline: str) -> dict[str, pd.DataFrame]:
    """Every table by its title, over the twins that are in all maps."""
    common = set.intersection(*(set(m.subjects["key"]) for m in maps))
    twins = truth.table[truth.table["key"].isin(common)]
    lesions, losses, nothing = [], [], []
    first: dict[str, pd.DataFrame] = {}
    for m in maps:
        mine = replace(m, subjects=m.subjects[m.subjects["key"].isin(common)])
        for channel in [c for c in ("residual", "structural") if c in m.channels]:
            null, threshold = null_rows(mine, channel, SETTINGS)
            nothing += _null(m.name, channel, null, mine)
            wanted = replace(mine, subjects=mine.subjects[~mine.subjects["condition"].isin(LOSSES)])
            scores = pd.DataFrame(voxel_scores(wanted, truth, channel, threshold, SETTINGS))
            for size in LESIONS:
                chosen = scores[scores["condition"] == size].set_index("subject")
                if m.name == baseline and channel == "residual":
                    first[size] = chosen
                row = _lesion(m.name, channel, size, chosen, mine)
                if size in first:
                    gap = (chosen["auprc"] - first[size]["auprc"]).dropna().to_numpy(dtype=float)
                    row[f"AUPRC minus {baseline}"] = _text(SETTINGS.interval(gap), 3)
                lesions.append(row)
        if "deformation" in m.channels:
            nothing += _null(m.name, "deformation", null_rows(mine, "deformation", SETTINGS)[0], mine)
            losses += [row for loss in LOSSES for row in _loss(mine, truth, loss)]
    people = f"{twins['subject'].nunique()} people"
    return {
        f"lesions, {people}": pd.DataFrame(lesions),
        f"hippocampal loss, {people}": pd.DataFrame(losses),
        f"nothing planted, {people}": pd.DataFrame(nothing),
    }


def _lesion(name: str, channel: str, size: str, mine: pd.DataFrame, maps: EvaluatedMaps) -> dict[str, Any]:
    """Voxel measures of one lesion size, a row of `mine` per person, and the share of people detected."""
    row: dict[str, Any] = {"model": name, "channel": channel, "size": size, "n": len(mine)}
    row["prevalence"] = f"{mine['prevalence'].mean():.4f}"
    for measure, column in (("AUROC", "auroc"), ("AUPRC", "auprc"), ("Dice", "dice_at_threshold")):
        row[measure] = _text(SETTINGS.interval(mine[column].to_numpy(dtype=float)), 3)
    return row | {
        "people detected": _detected(maps, size, channel),
        "null twins detected": _detected(maps, "null", channel),
    }


def _detected(maps: EvaluatedMaps, condition: str, channel: str) -> str:
    """Share of twins with a cluster whose size only 5 % of the controls reach anywhere in the brain (p_cluster)."""
    if maps.folder.artefact.summary["num_calibration"] < FEWEST_CONTROLS:
        return "n/a"
    clusters = pd.read_csv(maps.folder.folder / "clusters.tsv", sep="\t", na_values="n/a")
    found = clusters[(clusters["channel"] == channel) & (clusters["p_cluster"] <= 0.05 + 1e-12)]["key"]
    people = maps.with_condition(condition)["key"]
    return _text(wilson_interval(int(people.isin(set(found)).sum()), len(people)), 2)


def _loss(maps: EvaluatedMaps, truth: CohortTruth, condition: str) -> list[dict[str, Any]]:
    """Hippocampal loss: AUC, detection and bias, for left, right and the mean of both."""
    return [row for channel in ("deformation", "contrast") for row in _loss_in(maps, truth, condition, channel)]


def _loss_in(maps: EvaluatedMaps, truth: CohortTruth, condition: str, channel: str) -> list[dict[str, Any]]:
    table = maps.regions[maps.regions["channel"] == channel]
    z, effect = (table.pivot_table(index="key", columns="region", values=v) for v in ("z", "effect"))
    sides = ["left hippocampus", "right hippocampus"]
    controls = [key for key in maps.held_out["key"] if key in z.index]
    twins = [key for key in maps.with_condition(condition)["key"] if key in z.index]
    nulls = [key for key in maps.with_condition("null")["key"] if key in z.index]
    true = float(np.log1p(truth.percent_change(twins, sides).to_numpy(dtype=float) / 100).mean())
    rows = []
    for name, chosen in (("left", sides[:1]), ("right", sides[1:]), ("both", sides)):
        score = -z[chosen].mean(axis=1)
        reference, people = score[controls].to_numpy(), score[twins].to_numpy()
        found = int((conformal_p(reference, people) <= 0.05 + 1e-12).sum())
        detected = _text(wilson_interval(found, len(people)), 2) if len(reference) >= FEWEST_CONTROLS else "n/a"
        shift = effect[chosen].mean(axis=1)
        recovered = (shift[twins].mean() - shift[nulls].mean()) / true if nulls else float("nan")
        rows.append(
            {
                "model": maps.name,
                "channel": channel,
                "loss": f"{LOSSES[condition]} %",
                "hippocampus": name,
                "n": len(people),
            }
            | {"controls": len(reference), "AUC": _text(delong_interval(people, reference), 2)}
            | {"detected at 5 %": detected}
            | {"AUC of null twins": _text(delong_interval(score[nulls].to_numpy(), reference), 2) if nulls else ""}
            | {"log change recovered": f"{recovered:.2f}"}
        )
    return rows


def _null(name: str, channel: str, rows: list[dict[str, Any]], maps: EvaluatedMaps) -> list[dict[str, Any]]:
    found = []
    for row in rows:
        if row["num"]:
            beyond, positive = (
                Interval(row[c], row[f"{c}_low"], row[f"{c}_high"], row["num"])
                for c in ("share_beyond_1_96", "share_people_fdr_positive")
            )
            found.append(
                {
                    "model": name,
                    "channel": channel,
                    "people": row["group"],
                    "n": row["num"],
                    "SD of z": f"{row['sd_z']:.2f}",
                }
                | {"|z| > 1.96": _text(beyond, 3), "any FDR-positive voxel": _text(positive, 2)}
            )
    return found


def _text(interval: Interval, digits: int) -> str:
    return f"{interval.value:.{digits}f} [{interval.low:.{digits}f}, {interval.high:.{digits}f}]"


if __name__ == "__main__":
    run_script(main)
