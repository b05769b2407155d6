"""Does a chain of stage transitions beat the difference of two mean pictures, and does a critic of the brain help?

The published stager (three generators 1 - 64 - 128 - 256 and back, one per step of the CDR, with and without a second critic that
sees the brain alone), smaller, shorter and with an identity term, so that a CPU can do it, on two cohorts:

1. OASIS-1 slabs: CDR 0, 0.5 and 1, different people at each stage, as published (identified people of 60 years and over);
2. simulated people with AD at severities 0, 1 and 2, and other controls with their planted twins at severities 1 and 2: what the
   same brain looks like later is known.

Every arm is trained from five seeds, each with its own held-out people, and judged by `gen3d stages`. The difference between arms
is paired by seed, with Student's interval over seeds. A null run has its stages exchanged between people.
Writes arms.tsv and differences.tsv; finished runs are kept, so that the command goes on where it stopped.

    python analysis/24_a_chain_of_stages.py slabs --slabs DATA/t1w_slab_2mm --out FOLDER
    python analysis/24_a_chain_of_stages.py planted --out FOLDER
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from gen3d.core.artefact import read
from gen3d.core.tables import Row
from gen3d.prepare.slices import PrepareSlices
from gen3d.simulate.simulate import Simulate
from gen3d.stages.folder import CHAIN, StagesFolder
from gen3d.stages.stages import Stages
from gen3d.train.train import Train

YOUNGEST = 60.0
ARMS: dict[str, dict[str, Any]] = {
    "whole": {"region": False, "identity": 10.0},
    "whole and region": {"region": True, "identity": 10.0},
}
NULL = {"whole and region, permuted": {"region": True, "identity": 10.0, "permuted": True}}
SMALL = {"kind": "transition", "widths": [16, 32, 64], "slices": 2, "fewest": 5}
COHORTS: dict[str, dict[str, Any]] = {
    "slabs": {"target": "cdr", "classes": ["0", "0.5", "1"], "scale": 2},
    "planted": {"target": "severity", "classes": ["0", "1", "2"], "mask": "prepared", "validation": 0.0},
}
COMPARED_ARMS = (("whole and region", "whole"),)


def main() -> int:
    """Train and judge every arm of one cohort, or collect what there is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cohort", choices=tuple(COHORTS))
    parser.add_argument("--slabs", type=Path, help="t1w_slab_2mm")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=150)
    arguments = parser.parse_args()
    out = arguments.out / arguments.cohort
    out.mkdir(parents=True, exist_ok=True)
    trained, judged = slab_cohort(arguments.slabs, out) if arguments.cohort == "slabs" else planted_cohort(out)
    rows: list[Row] = []
    arms = [(name, arm, seed) for seed in range(arguments.seeds) for name, arm in ARMS.items()]
    arms[len(ARMS) : len(ARMS)] = [(name, arm, 0) for name, arm in NULL.items()]
    for name, arm, seed in arms:
        began = time.monotonic()
        folder = out / f"{name.replace(', ', '_').replace(' ', '-')}_{seed}"
        rows += judged_arm(trained, judged, folder, arm | COHORTS[arguments.cohort], seed, arguments.steps, name)
        print(f"{name}, seed {seed}: {time.monotonic() - began:.0f} s", flush=True)
        table = pd.DataFrame(rows)
        table.to_csv(out / "arms.tsv", sep="\t", index=False, float_format="%.5g")
        differences(table).to_csv(out / "differences.tsv", sep="\t", index=False, float_format="%.5g")
    return 0


def slab_cohort(slabs: Path, out: Path) -> tuple[Path, list[Path]]:
    """The slabs of identified people who are old enough, as a cohort with their CDR."""
    given = pd.read_csv(slabs / "participants.tsv", sep="\t", dtype={"subject": str})
    used = given[(given["Age"] >= YOUNGEST) & (given["CDR_from_class"].astype(float) <= 1)]
    table = {
        "subject": used["subject"],
        "age": used["Age"],
        "sex": used["M/F"],
        "cdr": used["CDR_from_class"].astype(float),
    }
    pd.DataFrame(table).to_csv(out / "people.tsv", sep="\t", index=False)
    settings = {
        "source": slabs,
        "people": out / "people.tsv",
        "pattern": r"sub-(?P<subject>[a-z0-9]+)_",
        "spacing_mm": 2,
        "slice_mm": 2,
        "controls": ["all"],
        "split": {"train": 1, "calibration": 0, "test": 0},
        "out": out / "prepared",
    }
    prepared = PrepareSlices.model_validate(settings).run()
    return prepared, [prepared]


def planted_cohort(out: Path) -> tuple[Path, list[Path]]:
    """People with AD at two severities to learn from; others, and their twins at both, to judge by."""
    common = {"spacing_mm": 4, "figures": False}
    conditions = {
        "one": {"kind": "ad", "severity": [1], "count": 24},
        "two": {"kind": "ad", "severity": [2], "count": 24},
    }
    learned = Simulate.model_validate(
        {**common, "subjects": 72, "seed": 1, "conditions": conditions, "longitudinal": 0, "out": out / "learned"}
    ).run()
    others = Simulate.model_validate(
        {
            **common,
            "subjects": 24,
            "seed": 2,
            "conditions": {},
            "longitudinal": 0,
            "split": {"train": 0, "calibration": 0, "test": 1},
        }
        | {"out": out / "others"}
    ).run()
    planted = {name: {"kind": "ad", "severity": given["severity"]} for name, given in conditions.items()}
    twins = Simulate.model_validate(
        {
            "figures": False,
            "base": [others],
            "base_roles": ["test"],
            "seed": 3,
            "conditions": planted,
            "out": out / "twins",
        }
    ).run()
    return learned, [others, twins]


def judged_arm(
    trained: Path, judged: list[Path], folder: Path, model: dict[str, Any], seed: int, steps: int, name: str
) -> list[Row]:
    """Train one arm and judge it; a row per protocol, candidate and measure, means over the single steps of the chain."""
    run = Train.model_validate(
        {
            "prepared": [trained],
            "out": folder / "run",
            "channels": ["t1w"],
            "seed": seed,
            "model": SMALL | model,
            "optim": {"steps": steps, "batch_size": 8, "learning_rate": 1e-3, "beta1": 0.5, "beta2": 0.999}
            | {"weight_decay": 0.0, "warmup": 0.0, "final_rate": 1.0, "ema_decay": 0.0, "clip": 1e6},
            "engine": {"device": "cpu", "precision": "fp32"},
            "track": [],
        }
    ).run()
    stages = Stages.model_validate(
        {
            "run": run,
            "prepared": judged,
            "out": folder / "stages",
            "seed": seed,
            "bootstrap": 500,
            "repeats": 20,
            "pictures": 3,
        }
    ).run()
    found = StagesFolder(read(stages, ("stages",)), name)
    return [{"arm": name, "seed": seed, **row} for row in summarised(found)]


def summarised(found: StagesFolder) -> list[Row]:
    """Means over single steps: every measure by protocol and candidate; FD, identity and directions."""
    order = list(found.classes)
    rows: list[Row] = []

    def single(table: pd.DataFrame) -> pd.DataFrame:
        places = [
            order.index(str(later)) - order.index(str(start))
            for start, later in zip(table["start"], table["stage"], strict=True)
        ]
        return table[np.array(places) == 1]

    def add(table: pd.DataFrame, by: list[str], value: str = "value", **named: str) -> None:
        for key, part in single(text(table)).groupby(by, sort=False):
            rows.append({**dict(zip(by, key, strict=True)), **named, "value": float(part[value].mean())})

    add(found.table("metrics"), ["protocol", "candidate", "measure"])
    sets = found.table("sets")
    if len(sets):
        sets["measure"] = [str(name)[:3].strip(",") for name in sets["metric"]]
        add(sets, ["candidate", "measure"], protocol="sets")
    identity = found.table("identity").assign(measure="rank 1")
    add(identity, ["candidate", "measure"], protocol="identity")
    directions = found.table("directions").assign(measure=lambda frame: frame["reading"] + " in the right direction")
    add(directions, ["candidate", "measure"], "share", protocol="directions")
    return rows


def text(table: pd.DataFrame) -> pd.DataFrame:
    """Stages as words, as the settings write them."""
    return table.assign(**{name: [f"{float(cell):g}" for cell in table[name]] for name in ("start", "stage")})


def differences(table: pd.DataFrame) -> pd.DataFrame:
    """Of the chain: one arm minus another, and each arm minus every floor, paired by seed, mean and Student's interval."""
    rows = []
    keys = ["protocol", "measure"]
    chain = table[table["candidate"] == CHAIN]
    for first, second in COMPARED_ARMS:
        for key, part in chain[chain["arm"].isin([first, second])].groupby(keys, sort=False):
            wide = part.pivot(index="seed", columns="arm", values="value").dropna()
            if {first, second} <= set(wide.columns):
                rows.append(
                    {
                        "what": f"{first} - {second}",
                        **dict(zip(keys, key, strict=True)),
                        **paired(wide[first] - wide[second]),
                    }
                )
    for (arm, protocol, measure), part in table.groupby(["arm", *keys], sort=False):
        wide = part.pivot(index="seed", columns="candidate", values="value")
        for floor in [name for name in wide.columns if name != CHAIN and CHAIN in wide.columns]:
            named = {"protocol": protocol, "measure": measure}
            rows.append({"what": f"{arm}: chain - {floor}", **named, **paired((wide[CHAIN] - wide[floor]).dropna())})
    return pd.DataFrame(rows)


def paired(values: pd.Series) -> Row:
    """Mean over seeds, Student's 95 % interval, and the number of seeds."""
    num, mean = len(values), float(values.mean())
    half = float(stats.t.ppf(0.975, num - 1) * values.std(ddof=1) / np.sqrt(num)) if num > 1 else float("nan")
    return {"value": mean, "low": mean - half, "high": mean + half, "seeds": num}


if __name__ == "__main__":
    raise SystemExit(main())
