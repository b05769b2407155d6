"""Does a fusion network show a planted pair of a gene and a region, and what does it cost if a person lacks one modality?

    python analysis/28_what_a_fusion_reads.py --out FOLDER [--parts attention missing] [--seeds 100 101 102] [--steps 300]
        [--people 300]

People are simulated with genotypes (`gen3d simulate genotypes=...`) but without images: the scan is a volume per region, as
anatomy, condition and alleles give it, with an error of measurement. `gen3d train model.kind=fusion` learns diagnosis from both;
`gen3d classify` compares it with logistic regressions of one modality in the same folds. Prints the tables of
28_what_a_fusion_reads.md. A stopped run goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from people_with_genes import checked, cohort, features, region_cohort, volumes

from gen3d.classify.classify import Classify
from gen3d.classify.scores.scorecard import ScoreSettings, score
from gen3d.cli import run_script
from gen3d.cohort.fusion_folder import ATTENTION, VERDICT
from gen3d.cohort.target import Target
from gen3d.train.train import Train

Keys = dict[str, Any]
NUM, SEEDS = 300, (100, 101, 102)
LEAST_PERMUTED = 19
ONE_REGION: Keys = {"changes": {"hippocampus": -6.0}, "severity": [1.0]}
"""A disease of the hippocampus alone, so that one pair is the whole truth; a weak one, so that the scan does not tell it all."""
ATTENTION_ARMS: dict[str, Keys] = {
    "planted": {"apoe_on_risk": 1.5, "polygenic_on_risk": 0.0, "apoe_on_hippocampus": -0.03, "variants": 400},
    "null": {"apoe_on_risk": 0.0, "polygenic_on_risk": 0.0, "apoe_on_hippocampus": 0.0, "variants": 400},
}
BOTH_MATTER: Keys = {"apoe_on_risk": 1.2, "polygenic_on_risk": 0.8, "apoe_on_hippocampus": -0.03, "variants": 400}
UNRELATED = [f"snp{number:05d}" for number in range(40, 400, 40)]
"""Variants that do nothing, each a token beside that of APOE."""
MODEL: Keys = {"kind": "fusion", "classes": ["control", "AD"], "width": 16, "heads": 2, "layers": 1, "looks": 4}
STEPS: Keys = {"batch_size": 32, "learning_rate": 6e-3, "ema_decay": 0.9}
TARGET = Target("diagnosis", "categories", ("control", "AD"))
ALONE = {"scan": "images", "genes": "genetics"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for cohorts, runs and studies")
    parser.add_argument("--parts", nargs="+", choices=("attention", "missing"), default=("attention", "missing"))
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS, help="of the cohorts")
    parser.add_argument("--steps", type=int, default=300, help="of the networks whose attention is judged")
    parser.add_argument("--people", type=int, default=NUM, help="of a cohort whose attention is judged")
    given = parser.parse_args()
    if "attention" in given.parts:
        for seed in given.seeds:
            for arm in ATTENTION_ARMS:
                attention(arm, seed, given.steps, given.people, given.out / "attention" / f"{arm}_{seed}")
    if "missing" in given.parts:
        studies = [missing(seed, given.out / "missing" / str(seed)) for seed in given.seeds]
        compared(studies)


def attention(arm: str, seed: int, steps: int, people: int, out: Path) -> None:
    """The verdict on one cohort."""
    verb, scans, genes = cohort(ATTENTION_ARMS[arm], people, seed, ONE_REGION)
    prepared = region_cohort(out / "cohort", scans, volumes(verb, scans, genes))
    out.mkdir(parents=True, exist_ok=True)
    pd.DataFrame({"variant": UNRELATED}).to_csv(out / "carry.tsv", sep="\t", index=False)
    carried = {"carry": out / "carry.tsv", "carry_all_up_to": 0, "scores": None}
    genotypes = checked(out / "genes", scans, genes, **carried)
    run = trained(out / "run", prepared, genotypes, steps, permuted=LEAST_PERMUTED, scores=False)
    verdict = json.loads((run / VERDICT).read_text(encoding="utf-8"))
    print(f"{arm} {seed}: {verdict}")
    if verdict["shown"]:
        table = ATTENTION.read(run)
        table["relevance"], table["p"] = table["relevance"].astype(float), table["p"].astype(float)
        print(table.sort_values("relevance", ascending=False).head(3).to_string(index=False))
        print(f"pairs with p <= 0.05: {int((table['p'] <= 0.05).sum())} of {len(table)}")


def trained(out: Path, prepared: Path, genotypes: Path, steps: int, **model: Any) -> Path:
    """A fusion network of five folds."""
    started = time.perf_counter()
    settings: Keys = {"prepared": [prepared], "genotypes": genotypes, "out": out, "track": [], "log_every": steps}
    settings |= {"model": MODEL | model, "optim": STEPS | {"steps": steps}, "cross_fit": 5}
    run = Train.model_validate(settings | {"engine": {"device": "cpu", "precision": "fp32"}}).run()
    print(f"{out}: {time.perf_counter() - started:.0f} s")
    return run


def missing(seed: int, out: Path) -> pd.DataFrame:
    """Predictions of one cohort by the fusion with what it is given, and by logistic regressions that learned one side alone."""
    verb, scans, genes = cohort(BOTH_MATTER, NUM, seed)
    values = volumes(verb, scans, genes)
    prepared, genotypes = region_cohort(out / "cohort", scans, values), checked(out / "genes", scans, genes)
    fusion = trained(out / "fusion", prepared, genotypes, 150, variants=[])
    people = pd.read_csv(genotypes / "people.tsv", sep="\t").set_index("subject").reindex(scans["subject"])
    numbers = people[["apoe_e4", "apoe_e2", "prs_background"]].to_numpy(dtype=np.float64)
    numbers = np.where(np.isfinite(numbers), numbers, np.nanmean(numbers, axis=0))
    latents = {
        "scan": features(out / "scan_features", scans, values, "volumes", scans["key"]),
        "genes": features(out / "genes_features", scans, numbers, "genes", scans["key"]),
    }
    parts = []
    for side, folder in latents.items():
        heads: list[Keys] = [
            {"kind": "linear"},
            {"kind": "run", "run": fusion, "name": "fusion, both"},
            {"kind": "run", "run": fusion, "name": f"fusion, {side} only", "subset": ALONE[side]},
        ]
        table = studied(out / f"study_{side}", folder, heads)
        parts.append(table.replace({"model": {"linear": f"logistic on {side}"}}))
    known = people.index[people["verdict"] == "pass"]
    together = pd.concat(parts).drop_duplicates(["model", "key", "repeat", "fold"])
    return together[together["subject"].isin(known)]


def studied(out: Path, latents: Path, heads: list[Keys]) -> pd.DataFrame:
    """Predictions of `gen3d classify`, baselines left out."""
    settings: Keys = {"latents": latents, "out": out, "heads": heads, "target": "diagnosis", "classes": TARGET.classes}
    settings |= {"voxels": False, "permutations": 0, "bootstrap": 100}
    Classify.model_validate(settings).run()
    table = pd.read_csv(out / "predictions.tsv", sep="\t", dtype={"y_true": str, "y_pred": str})
    return table[table["kind"] == "head"]


def compared(studies: list[pd.DataFrame]) -> None:
    """Areas and paired differences: of each cohort, and of all people, compared within folds of their own cohort."""
    for number, study in enumerate(studies):
        study["fold"] += 100 * number
        study["subject"] = f"{number}_" + study["subject"].astype(str)
        study["key"] = f"{number}_" + study["key"].astype(str)
    pooled = pd.concat(studies, ignore_index=True)
    for name, table in [*((f"cohort {number + 1}", study) for number, study in enumerate(studies)), ("all", pooled)]:
        tables = score(table.reset_index(drop=True), TARGET, ScoreSettings(bootstrap=1000, subgroups=()))
        print(f"\n{name}")
        for row in tables["performance"].to_dict("records"):
            if row["measure"] == "auc":
                print(
                    f"{row['model']}: {row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}], n {row['num_people']}"
                )
        for row in tables["differences"].to_dict("records"):
            interval = f"{row['difference']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]"
            print(f"{row['model']} - {row['against']}: {interval}, DeLong p {row['p_delong']:.3f}")


if __name__ == "__main__":
    run_script(main)
