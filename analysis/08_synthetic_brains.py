"""How good are synthetic brains, are they copies, and what do more training steps buy?

One spatial VAE (or a finished one: --vae), then one latent diffusion model per number of steps, with the settings of
configs/train/vae_spatial.yaml and ldm_laptop.yaml. Each draws scans that resemble its training people; `gen3d sample`
registers and audits them, and `gen3d quality` compares them with people of the same cohort whom no model saw. Copies
are counted and do not end the analysis: the scans are not handed on. Writes steps.tsv (seconds, loss, distances with
the floor of real people and with the autoencoder's reconstructions, diversity, copies), fidelity.tsv (requested against
measured) and synthetic_brains.png (real scans of held-out people, the same reconstructed, synthetic ones: it shows real
people, so check whether their scans may be published).

    python analysis/08_synthetic_brains.py --prepared PREPARED --out FOLDER --steps 500 1500 4500
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import yaml
from numpy.typing import NDArray

from gen3d.cli import run_script
from gen3d.cohort.folder import open_prepared
from gen3d.imaging.volume import read_stored
from gen3d.latents.encode import Encode
from gen3d.models.run import load_run
from gen3d.quality.quality import Quality
from gen3d.synthesis.picture import PLANES, slice_of
from gen3d.synthesis.sample import Sample
from gen3d.train.train import Train

Floats = NDArray[np.float32]
Row = dict[str, Any]

CONFIGS = Path(__file__).parents[1] / "configs" / "train"
METRICS = ("kid", "fid")
FIDELITY = ("r", "slope", "mae", "accuracy", "auc")
WAIVER = "analysis: how copying depends on training; the scans are not handed on"
SHOWN = 4


@dataclass(frozen=True)
class Experiment:
    """All results in one folder; what is finished is not computed again."""

    prepared: tuple[Path, ...]
    out: Path
    given_vae: Path | None
    vae_steps: int
    steps: tuple[int, ...]
    count: int
    conditions: tuple[str, ...]
    flip: bool
    measure: bool
    small: bool

    @cached_property
    def vae(self) -> Path:
        """The autoencoder: that of --vae, or one trained with the settings of configs/train/vae_spatial.yaml."""
        if self.given_vae is not None:
            return self.given_vae
        settings = yaml.safe_load((CONFIGS / "vae_spatial.yaml").read_text(encoding="utf-8"))
        settings["optim"]["steps"] = self.vae_steps
        if self.small:
            settings["model"] |= {"base_channels": 8, "max_channels": 16}
        return self._trained("vae", settings | {"prepared": self.prepared})

    @cached_property
    def latents(self) -> Path:
        """Latents of all scans, mirrored ones too where they are in training."""
        given = {"prepared": self.prepared, "run": self.vae, "mirrored": self.flip, "out": self.out / "latents"}
        return Encode.model_validate(given).run()

    @cached_property
    def diffusions(self) -> dict[int, Path]:
        """A latent diffusion model per number of steps, with the settings of configs/train/ldm_laptop.yaml."""
        runs = {}
        for steps in self.steps:
            settings = yaml.safe_load((CONFIGS / "ldm_laptop.yaml").read_text(encoding="utf-8"))
            settings["model"]["conditions"] = self.conditions
            settings["optim"]["steps"] = steps
            if self.small:
                settings["model"] |= {"base_channels": 16, "max_channels": 32, "head_channels": 16, "levels": 1}
            source = {"latents": self.latents, "vae": self.vae, "augment": {"flip": self.flip}}
            runs[steps] = self._trained(f"ldm_{steps}", settings | source)
        return runs

    def _trained(self, name: str, settings: Row) -> Path:
        return Train.model_validate({**settings, "out": self.out / "runs" / name, "track": []}).run()

    @cached_property
    def samples(self) -> dict[int, Path]:
        """Scans that resemble the training people, by every model with the same seed."""
        common = {"count": self.count, "seed": 1, "unnamed": "as_trained", "measure": self.measure, "waiver": WAIVER}
        return {
            steps: Sample.model_validate({**common, "run": run, "out": self.out / "samples" / str(steps)}).run()
            for steps, run in self.diffusions.items()
        }

    @cached_property
    def qualities(self) -> dict[int, Path]:
        """Folders of `gen3d quality`, one per model."""
        return {
            steps: Quality.model_validate(
                {"synthetic": folder, "reference": self.prepared, "out": self.out / "quality" / str(steps)}
            ).run()
            for steps, folder in self.samples.items()
        }

    def step_rows(self) -> pd.DataFrame:
        """One row per number of steps; the last rows are reconstruction, smoothing and the floor."""
        rows: list[Row] = []
        tables = {steps: metrics(folder) for steps, folder in self.qualities.items()}
        for steps, found in tables.items():
            run = load_run(self.diffusions[steps])
            log = [json.loads(line) for line in (run.folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
            row: Row = {"scans": f"synthetic, {steps} steps", "seconds": run.artefact.summary["seconds"]}
            row["loss, last tenth"] = f"{np.mean([entry['loss'] for entry in log if entry['step'] > 0.9 * steps]):.3f}"
            rows.append(row | set_row(found, "synthetic") | copies(self.samples[steps]))
        last = tables[self.steps[-1]]
        for name in ("reconstructed", "smoothed"):
            rows.append({"scans": f"real, {name}", **set_row(last, name)})
        rows.append({"scans": "real, other half", **set_row(last, "synthetic", "floor"), **diversity_row(last, "real")})
        return pd.DataFrame(rows).astype(object).fillna("")

    def fidelity_rows(self) -> pd.DataFrame:
        """Requested values against those measured, or predicted by a model trained on real people."""
        rows: list[Row] = []
        for steps, folder in self.qualities.items():
            for found in metrics(folder)["fidelity"]:
                row: Row = {"scans": f"{found['people']}, {steps} steps" if found["people"] == "synthetic" else "real"}
                row |= {"condition": found["covariate"], "how": found["method"], "n": found["n"]}
                rows.append(row | {name: interval(found, name) for name in FIDELITY})
        return pd.DataFrame(rows).drop_duplicates(["scans", "condition", "how"])


def metrics(quality: Path) -> dict[str, list[Row]]:
    """The tables of a quality folder."""
    tables: dict[str, list[Row]] = json.loads((quality / "metrics.json").read_text(encoding="utf-8"))["tables"]
    return tables


def set_row(tables: dict[str, list[Row]], name: str, column: str = "value") -> Row:
    """Distances of one set of scans (or their floor), and its diversity."""
    row: Row = {}
    for found in tables["distances"]:
        if found["set"] == name and found["metric"] in METRICS:
            title = f"{found['metric'].upper()}-{found['extractor']} (n {found['n']})"
            row[title] = interval(found, column)
    return row | (diversity_row(tables, name) if column == "value" else {})


def diversity_row(tables: dict[str, list[Row]], name: str) -> Row:
    """Similarity of the scans of a set to each other."""
    return {
        f"{found['measure']} within": interval(found, "value") for found in tables["diversity"] if found["set"] == name
    }


def copies(sample: Path) -> Row:
    """Share of copies and membership AUC, from the audit."""
    audit = json.loads((sample / "audit.json").read_text(encoding="utf-8"))
    if not audit["done"]:
        return {"copies": f"no audit: {audit['obstacle']}"}
    share = audit["copies"]
    row: Row = {"copies": f"{share['value']:.1%} [{share['low']:.1%}, {share['high']:.1%}]"}
    for name, found in audit["embeddings"].items():
        row[f"membership AUC, {name}"] = "{value:.3g} [{low:.3g}, {high:.3g}]".format(**found["membership"])
    return row


def interval(row: Row, name: str) -> str:
    """value [low, high] of a column, with three digits; empty where there is none."""
    value, low, high = (row.get(column) for column in (name, f"{name}_low", f"{name}_high"))
    return "" if value is None or low is None or high is None else f"{value:.3g} [{low:.3g}, {high:.3g}]"


def draw(path: Path, experiment: Experiment) -> None:
    """Middle slices: held-out people, the same through the autoencoder, and synthetic people of the longest training."""
    quality, sample = experiment.qualities[experiment.steps[-1]], experiment.samples[experiment.steps[-1]]
    real, made = open_prepared(experiment.prepared), open_prepared(sample)
    keys = pd.read_csv(quality / "reference.tsv", sep="\t")["key"].tolist()
    keys = [keys[place] for place in np.linspace(0, len(keys) - 1, SHOWN).astype(int)]
    again = [read_stored(quality / "reconstructed" / f"{key}_t1w.nii") for key in keys]
    lines = {
        "real, held out": [real.volume(key, "t1w") for key in keys],
        "reconstructed": again,
        f"synthetic, {experiment.steps[-1]} steps": [made.volume(key, "t1w") for key in made.manifest["key"][:SHOWN]],
    }
    figure, axes = plt.subplots(len(lines), SHOWN * len(PLANES), figsize=(15, 4.4), layout="constrained")
    for line, (name, volumes) in zip(axes, lines.items(), strict=True):
        tiles = [slice_of(volume, *plane, real.plan) for volume in volumes for plane in PLANES]
        for axis, tile in zip(line, tiles, strict=True):
            axis.imshow(tile, cmap="gray", vmin=0, vmax=1.3, origin="lower")
            axis.set_axis_off()
        line[0].set_title(name, fontsize=9, loc="left")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def markdown(table: pd.DataFrame) -> str:
    """A table as markdown."""
    lines = ["| " + " | ".join(map(str, table.columns)) + " |", "|" + "---|" * len(table.columns)]
    return "\n".join(lines + ["| " + " | ".join(map(str, row)) + " |" for row in table.to_numpy()])


def main() -> None:
    """Run what is not finished; write the tables and the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prepared", type=Path, nargs="+", required=True, help="folders of `gen3d prepare`")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--vae", type=Path, help="run of a spatial VAE of these people, instead of training one")
    parser.add_argument("--vae-steps", type=int, default=2000, help="training steps of the VAE")
    parser.add_argument("--steps", type=int, nargs="+", default=[500, 1500, 4500], help="of the diffusion models")
    parser.add_argument("--count", type=int, default=40, help="scans that each model draws")
    parser.add_argument("--conditions", nargs="*", default=["age_years", "sex"], help="columns to condition on")
    parser.add_argument("--flip", action="store_true", help="learn from mirrored scans too")
    parser.add_argument("--no-measure", action="store_true", help="leave out the registration of synthetic scans")
    parser.add_argument("--small", action="store_true", help="narrow networks, to try the analysis itself")
    given = parser.parse_args()
    experiment = Experiment(
        prepared=tuple(given.prepared),
        out=given.out,
        given_vae=given.vae,
        vae_steps=given.vae_steps,
        steps=tuple(given.steps),
        count=given.count,
        conditions=tuple(given.conditions),
        flip=given.flip,
        measure=not given.no_measure,
        small=given.small,
    )
    steps, fidelity = experiment.step_rows(), experiment.fidelity_rows()
    steps.to_csv(given.out / "steps.tsv", sep="\t", index=False)
    fidelity.to_csv(given.out / "fidelity.tsv", sep="\t", index=False)
    print(markdown(steps), markdown(fidelity), sep="\n\n")
    draw(given.out / "synthetic_brains.png", experiment)


if __name__ == "__main__":
    run_script(main)
