"""Does a map of where a network looks point at what was planted, and at nothing else? Hippocampi in one, the cerebellum in another.

Simulated people of one seed: controls, people who lost a fifth of their hippocampi, and people who lost a seventh of their
cerebellum. For each loss the same residual network of the log-Jacobian, of a crop that holds both, learns to tell the people from
the controls, cross-fitted in three, with one retraining on permuted labels; each is explained by every method, for people whom its
members never saw. Enrichment is tested in hippocampus, entorhinal cortex and cerebellum in both: the cerebellar network is the
control of a map that shows the medial temporal lobe whatever was learned.

Everything is in explained/*/judges.tsv and group_enrichment.tsv; the area under the curve of each network is printed. A stopped
run goes on.

    python analysis/22_where_a_network_looks.py --out FOLDER
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pandas as pd

from gen3d.cli import run_script
from gen3d.cohort.scores_folder import read_scores
from gen3d.core.tables import read_cells
from gen3d.explain.explain import Explain
from gen3d.maths.stats import bootstrap_auroc
from gen3d.simulate.simulate import Simulate
from gen3d.train.train import Train

LOSSES: dict[str, dict[str, float]] = {
    "hippocampus": {"hippocampus": -20},
    "cerebellum": {"cerebellar cortex": -15, "cerebellar white matter": -15},
}
"""Percent of the volume, by region."""

REGIONS = ["hippocampus", "entorhinal", "cerebellar cortex", "cerebellar white matter"]


def main() -> None:
    """Simulate, train and explain; whatever is finished is left as it is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the cohort, runs and explanations")
    parser.add_argument("--each", type=int, default=24, help="people with each loss; twice as many controls")
    parser.add_argument("--spacing-mm", type=float, default=3.0, help="edge of a voxel, mm")
    parser.add_argument("--steps", type=int, default=150, help="updates of 6 volumes")
    parser.add_argument("--people", type=int, default=6, help="people explained per class, half of them judged")
    given = parser.parse_args()
    out: Path = given.out
    kinds = {name: {"kind": "atrophy", "count": given.each, "changes": changes} for name, changes in LOSSES.items()}
    cohort: dict[str, Any] = {"subjects": 4 * given.each, "conditions": kinds, "sites": 2, "figures": False}
    prepared = Simulate.model_validate(
        {**cohort, "spacing_mm": given.spacing_mm, "seed": 221, "workers": 1, "out": out / "cohort"}
    ).run()
    for loss in LOSSES:
        run = Train.model_validate(training(prepared, out / "runs" / loss, loss, given.steps)).run()
        print(f"{loss}: AUC of people whom the networks never saw {auc(run, loss)}")
        keys = {"run": run, "prepared": prepared, "out": out / "explained" / loss, "regions": REGIONS}
        keys |= {"people": given.people, "judged": given.people // 2, "draws": 12, "steps": 16, "orders": 6}
        folder = Explain.model_validate({**keys, "animation": "none"}).run()
        for name in ("judges", "group_enrichment"):
            print(pd.DataFrame(read_cells(folder / f"{name}.tsv")).to_string(index=False))


def training(prepared: Path, out: Path, loss: str, steps: int) -> dict[str, Any]:
    """The settings of one network."""
    model = {
        "kind": "classifier",
        "target": "condition",
        "classes": ["none", loss],
        "network": {"kind": "resnet3d", "layers": 10},
        "intensity": "stored",
        "crop_around": ["hippocampus", "cerebellar cortex"],
        "shift": 2,
        "permuted": 1,
        "looks": 5,
    }
    optim = {"steps": steps, "batch_size": 6, "learning_rate": 1e-3, "ema_decay": 0.95}
    keys: dict[str, Any] = {"prepared": prepared, "out": out, "channels": ["log_jacobian"], "cross_fit": 3, "track": []}
    return {**keys, "model": model, "optim": optim}


def auc(run: Path, loss: str) -> str:
    """Mean logit difference of everybody by the member that never saw the person; each member centred on its own people."""
    scores, ill, well = read_scores(run), [], []
    for member in scores.of():
        rows = scores.rows(member.index)
        values = pd.Series(scores.scores(rows) @ [-1.0, 1.0])
        values = (values - values.mean()) / values.std()
        is_ill = (rows["label"] == loss).to_numpy()
        ill += values[is_ill].tolist()
        well += values[~is_ill].tolist()
    found = bootstrap_auroc(ill, well)
    return f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}], n {found.num}"


if __name__ == "__main__":
    run_script(main)
