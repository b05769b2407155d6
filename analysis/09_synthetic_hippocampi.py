"""Does latent diffusion draw hippocampi of the requested volume, how good are they, and are they copies?

Real crops around one hippocampus with label channels, prepared by 09_synthetic_hippocampi_crops.py: a fast 3D set. A spatial
VAE, then one latent diffusion model per number of steps, conditioned on volume and anterior share; `gen3d sample` draws and
audits (copies are counted and do not end the analysis). Everything is compared with people whom no model saw, one crop per
person, and with the same crops through the autoencoder, which is the ceiling. Writes fidelity.tsv (measured against
requested), steps.tsv (seconds, losses, distances with the floor of real people, copies) and distances.tsv;
09_synthetic_hippocampi_pictures.py draws them.

    python analysis/09_synthetic_hippocampi.py --prepared PREPARED --out FOLDER
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy import ndimage
from sklearn.linear_model import RidgeCV

from gen3d.cli import run_script
from gen3d.cohort.folder import Prepared, open_prepared
from gen3d.latents.encode import Encode
from gen3d.maths.stats import Interval, bootstrap_interval
from gen3d.models.diffusion.latent_diffusion import LatentDiffusion
from gen3d.models.diffusion.noising import target
from gen3d.models.run import Run, load_run
from gen3d.quality.distances import distance_rows
from gen3d.quality.features import FeatureMaker, RandomFeatures, ScanSet
from gen3d.synthesis.sample import Sample
from gen3d.train.train import Train

Floats = NDArray[np.float32]
Row = dict[str, Any]

CHANNELS = ("t1w", "anterior", "posterior")
CONDITIONS = ("hippocampus_ml", "anterior_share")
TIMES = (0.1, 0.3, 0.5, 0.7, 0.9)
WAIVER = "analysis: how copying depends on training; the crops are not handed on"


# ------------------------------------------------------------------------------------------------------ measuring


def measured(volumes: Floats) -> pd.DataFrame:
    """Volume (ml) and anterior share of the label channels of crops [n, 3, X, Y, Z].

    Channels are summed: counting voxels above a half gives the same correlations and loses .2 ml of a real hippocampus.
    """
    anterior, posterior = (np.clip(volumes[:, channel], 0, 1).sum(axis=(1, 2, 3)) / 1000 for channel in (1, 2))
    return pd.DataFrame({"hippocampus_ml": anterior + posterior, "anterior_share": anterior / (anterior + posterior)})


def fidelity_rows(name: str, asked: pd.DataFrame, found: pd.DataFrame) -> list[Row]:
    """Correlation, slope and mean difference of measured against requested values, intervals over crops."""
    rows = []
    for condition in found.columns:
        pairs = np.column_stack([asked[condition].to_numpy(float), found[condition].to_numpy(float)])
        row: Row = {"crops": name, "condition": condition, "n": len(pairs)}
        for statistic, function in STATISTICS.items():
            row[statistic] = words(bootstrap_interval(pairs, function))
        rows.append(row)
    return rows


STATISTICS: dict[str, Callable[[NDArray[np.float64]], float]] = {
    "r": lambda pairs: float(np.corrcoef(pairs.T)[0, 1]),
    "slope": lambda pairs: float(np.polyfit(pairs[:, 0], pairs[:, 1], 1)[0]),
    "mean difference": lambda pairs: float(np.mean(pairs[:, 1] - pairs[:, 0])),
}


def words(interval: Interval) -> str:
    """value [low, high], with three digits."""
    return f"{interval.value:.3g} [{interval.low:.3g}, {interval.high:.3g}]"


def from_t1w(train: Floats, volumes_ml: NDArray[np.float64]) -> Callable[[Floats], pd.DataFrame]:
    """A ridge regression of volume on the T1w channel alone: whether the scan, not only the label, follows the request."""

    def coarse(crops: Floats) -> Floats:
        smooth = ndimage.gaussian_filter(crops[:, 0], (0, 1, 1, 1))[:, 1::3, 1::3, 1::3]
        return cast(Floats, smooth.reshape(len(crops), -1))

    model = RidgeCV(np.logspace(1, 6, 21), gcv_mode="svd").fit(coarse(train), volumes_ml)
    return lambda crops: pd.DataFrame({"hippocampus_ml": model.predict(coarse(crops))})


def denoising_error(run: Run, latents: Path, table: pd.DataFrame) -> NDArray[np.float64]:
    """Mean squared error of the denoiser over a grid of times, per crop, with the same noise for every run [n]."""
    model = cast(LatentDiffusion, run.member(0))
    keys = pd.read_csv(latents / "latents.tsv", sep="\t")["key"]
    rows = pd.Index(keys).get_indexer(table["key"])
    x0 = model.standardise(
        torch.from_numpy(np.load(latents / "latents.npy")[rows]).reshape(len(rows), *model.latent_shape)
    )
    conditions, total = torch.from_numpy(model.coding.encode(table)), torch.zeros(len(rows))
    generator = torch.Generator().manual_seed(0)
    for time in TIMES:
        noise, t = torch.randn(x0.shape, generator=generator), torch.full((len(x0),), time)
        alpha, sigma = (value.view(-1, 1, 1, 1, 1) for value in (model.noising.alpha(t), model.noising.sigma(t)))
        with torch.no_grad():
            output = model.denoiser(alpha * x0 + sigma * noise, model.noising.position(t), conditions)
        error = output - target(model.config.predicted, x0, noise, alpha, sigma)
        total += error.square().flatten(1).mean(1) / len(TIMES)
    return total.double().numpy()


# ----------------------------------------------------------------------------------------------------- experiment


@dataclass(frozen=True)
class Experiment:
    """All results in one folder; what is finished is not computed again."""

    prepared: Path
    out: Path
    vae_steps: int
    steps: tuple[int, ...]
    count: int
    batch_size: int
    latent_channels: int
    width: int

    @cached_property
    def cohort(self) -> Prepared:
        """The real crops."""
        return open_prepared(self.prepared)

    @cached_property
    def people(self) -> dict[str, pd.DataFrame]:
        """Crops of training people, and one crop each of people that no model saw."""
        table = self.cohort.manifest
        held_out = table[table["role"] == "calibration"].drop_duplicates("subject")
        return {
            "train": table[table["role"] == "train"].reset_index(drop=True),
            "held out": held_out.reset_index(drop=True),
        }

    @cached_property
    def vae(self) -> Path:
        """The autoencoder."""
        model = {
            "kind": "vae",
            "latent": "spatial",
            "levels": 2,
            "beta": 0.001,
            "latent_channels": self.latent_channels,
        }
        optim = {"steps": self.vae_steps, "batch_size": 4, "ema_decay": 0.99}
        return self.trained(
            "vae", {"model": model, "channels": CHANNELS, "optim": optim, "prepared": self.cohort.folders}
        )

    @cached_property
    def latents(self) -> Path:
        """Latents of all crops."""
        folder = self.out / "latents"
        return Encode.model_validate({"prepared": self.cohort.folders, "run": self.vae, "out": folder}).run()

    def trained(self, name: str, settings: Row) -> Path:
        """A finished run."""
        folder = self.out / "runs" / name
        return Train.model_validate({**settings, "out": folder, "picture_every": 10**6, "track": []}).run()

    @cached_property
    def diffusions(self) -> dict[int, Path]:
        """A latent diffusion model per number of steps."""
        return {steps: self._diffusion(steps) for steps in self.steps}

    def _diffusion(self, steps: int) -> Path:
        width = {"base_channels": self.width, "max_channels": 2 * self.width, "head_channels": 16}
        model = {"kind": "latent_diffusion", "conditions": CONDITIONS, **width}
        optim = {"steps": steps, "batch_size": self.batch_size, "learning_rate": 5e-4, "ema_decay": 0.99}
        return self.trained(f"ldm_{steps}", {"latents": self.latents, "vae": self.vae, "model": model, "optim": optim})

    @cached_property
    def asked(self) -> dict[int, Prepared]:
        """Crops with volume and anterior share requested independently, over the range of 90 % of people."""
        train = self.people["train"]
        ranges = {name: [round(float(value), 4) for value in train[name].quantile([0.05, 0.95])] for name in CONDITIONS}
        return {steps: self._drawn(steps, "asked", {"condition": ranges, "seed": 1}) for steps in self.steps}

    @cached_property
    def like_people(self) -> dict[int, Prepared]:
        """Crops with the conditions of training people."""
        return {steps: self._drawn(steps, "like", {"unnamed": "as_trained", "seed": 2}) for steps in self.steps}

    def _drawn(self, steps: int, kind: str, settings: Row) -> Prepared:
        """A synthetic dataset of a model; copies are counted and kept."""
        drawing = {"count": self.count, "measure": False, "steps": 20, "per_call": 4, "precision": "auto"}
        gate = {"audit": {"mirrored": False, "spacing_mm": 3.0}, "waiver": WAIVER}
        folder = self.out / "samples" / f"{kind}_{steps}"
        named = {"run": self.diffusions[steps], "out": folder}
        return open_prepared(Sample.model_validate({**named, **drawing, **gate, **settings}).run())

    def read(self, cohort: Prepared) -> Floats:
        """All synthetic crops of a dataset [n, 3, X, Y, Z]."""
        return cohort.load(cohort.manifest["key"].tolist(), CHANNELS)

    def real(self, who: str) -> Floats:
        """Real crops [n, 3, X, Y, Z]."""
        return self.cohort.load(self.people[who]["key"].tolist(), CHANNELS)

    @cached_property
    def reconstructed(self) -> Floats:
        """The held-out crops, encoded and decoded: the ceiling of what can be drawn."""
        run, keys = load_run(self.vae), self.people["held out"]["subject"]
        found = [run.expect(crop, subject) for crop, subject in zip(self.real("held out"), keys, strict=True)]
        crops = np.stack([cast(tuple[Floats, Any], expected)[0] for expected in found])
        np.save(self.out / "reconstructed.npy", crops)
        return crops

    def fidelity(self) -> pd.DataFrame:
        """Requested against drawn, for synthetic crops, real crops and their reconstructions."""
        train, held_out = self.people["train"], self.people["held out"]
        reader = from_t1w(self.real("train"), train["hippocampus_ml"].to_numpy(float))
        rows: list[Row] = []
        sets = [("real, held out", held_out, self.real("held out")), ("reconstructed", held_out, self.reconstructed)]
        for steps in self.steps:
            made = self.asked[steps]
            wanted = made.manifest.rename(columns={f"requested_{name}": name for name in CONDITIONS})
            sets.append((f"synthetic, {steps} steps", wanted, self.read(made)))
        for name, wanted, crops in sets:
            rows += fidelity_rows(name, wanted, measured(crops))
            rows += [row | {"condition": "volume read off T1w"} for row in fidelity_rows(name, wanted, reader(crops))]
        return pd.DataFrame(rows)

    def quality(self) -> pd.DataFrame:
        """Distances of T1w features to those of held-out people, for every number of steps."""
        keys, real = tuple(self.people["held out"]["key"]), self.real("held out")
        blurred = ndimage.gaussian_filter(real, (0, 0, 0.85, 0.85, 0.85))  # 2 voxels FWHM
        of_train = self.people["train"].drop_duplicates("subject")["key"]
        training = ScanSet("training", tuple(of_train), lambda key: self.cohort.volume(key, "t1w"))
        sets = [ScanSet("real", keys, in_memory(keys, real))]
        for steps in self.steps:
            made = self.like_people[steps]
            names = tuple(made.manifest["key"])
            sets.append(ScanSet(f"synthetic_{steps}", names, in_memory(names, self.read(made))))
        sets.append(ScanSet("reconstructed", keys, in_memory(keys, self.reconstructed), True))
        sets.append(ScanSet("smoothed", keys, in_memory(keys, blurred), True))
        folder, mask = self.out / "features", self.cohort.mask
        makers = [FeatureMaker(config, folder, training, mask) for config in (RandomFeatures(),)]
        table = distance_rows(makers, sets, 200, 0)
        return table[table["metric"].isin(["kid", "mmd"])].reset_index(drop=True)

    def step_rows(self, quality: pd.DataFrame) -> pd.DataFrame:
        """Steps, seconds, losses, distances and copies."""
        rows: list[Row] = []
        for steps in self.steps:
            run = load_run(self.diffusions[steps])
            log = [json.loads(line) for line in (run.folder / "log.jsonl").read_text().splitlines()]
            row: Row = {"steps": steps, "seconds": run.artefact.summary["seconds"]}
            row["training loss, last tenth"] = f"{np.mean([e['loss'] for e in log if e['step'] > 0.9 * steps]):.3f}"
            for who, table in self.people.items():
                errors = denoising_error(run, self.latents, table.drop_duplicates("subject"))
                row[f"denoising error, {who}"] = words(bootstrap_interval(errors))
            rows.append(row | distances(quality, f"synthetic_{steps}") | self.copies(steps))
        for name in ("reconstructed", "smoothed"):
            rows.append({"steps": name, **distances(quality, name)})
        floors = quality[quality["set"] == "smoothed"]
        rows.append({"steps": "real, floor", **distances(floors, "smoothed", "floor")})
        return pd.DataFrame(rows).astype(object).fillna("")

    def copies(self, steps: int) -> Row:
        """Audit of the crops that have the conditions of training people."""
        audit = json.loads((self.like_people[steps].folders[0] / "audit.json").read_text())
        found = audit["copies"]
        row: Row = {"copies": f"{found['value']:.1%} [{found['low']:.1%}, {found['high']:.1%}]"}
        for name, figures in audit["embeddings"].items():
            row[f"membership AUC, {name}"] = words(Interval(**figures["membership"]))
        return row


def in_memory(keys: tuple[str, ...], crops: Floats) -> Callable[[str], Floats]:
    """key -> T1w of crops that are in memory."""
    places = {key: place for place, key in enumerate(keys)}
    return lambda key: cast(Floats, crops[places[key], 0])


def distances(quality: pd.DataFrame, name: str, column: str = "value") -> Row:
    """Columns of one set of crops."""
    mine = quality[quality["set"] == name]
    return {
        f"{row['metric'].upper()}-{row['extractor']} (n {row['n']})": words(
            Interval(row[column], row[f"{column}_low"], row[f"{column}_high"], row["n"])
        )
        for row in mine.to_dict("records")
    }


def markdown(table: pd.DataFrame) -> str:
    """A table as markdown."""
    lines = ["| " + " | ".join(map(str, table.columns)) + " |", "|" + "---|" * len(table.columns)]
    return "\n".join(lines + ["| " + " | ".join(map(str, row)) + " |" for row in table.to_numpy()])


def main() -> None:
    """Run what is not finished; write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prepared", type=Path, required=True, help="folder of 09_synthetic_hippocampi_crops.py")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--vae-steps", type=int, default=2000, help="training steps of the autoencoder (4 crops each)")
    parser.add_argument("--steps", type=int, nargs="+", default=[100, 400, 1600, 6400], help="of the diffusion models")
    parser.add_argument("--count", type=int, default=48, help="crops per synthetic dataset")
    parser.add_argument("--batch-size", type=int, default=8, help="crops per step of the diffusion models")
    parser.add_argument("--width", type=int, default=32, help="channels of the diffusion model's first level")
    parser.add_argument("--latent-channels", type=int, default=4, help="of the autoencoder")
    given = parser.parse_args()
    experiment = Experiment(**{**vars(given), "steps": tuple(given.steps)})
    for who, table in experiment.people.items():
        print(f"{who}: {len(table)} crops of {table['subject'].nunique()} people")
    fidelity, quality = experiment.fidelity(), experiment.quality()
    steps = experiment.step_rows(quality)
    for name, found in (("fidelity", fidelity), ("steps", steps), ("distances", quality)):
        found.to_csv(given.out / f"{name}.tsv", sep="\t", index=False)
    print(markdown(fidelity), markdown(steps), sep="\n\n")


if __name__ == "__main__":
    run_script(main)
