"""Pictures of synthetic hippocampi, from the folder that 09_synthetic_hippocampi.py wrote.

summary.png shows no person: synthetic crops, means of thirds of real and of synthetic ones, measured against requested
volume, and distances against training steps. people.png shows crops of held-out people, the same reconstructed, and
synthetic ones: keep it where the scans may be shown.

    python analysis/09_synthetic_hippocampi_pictures.py --prepared PREPARED --out FOLDER
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
from numpy.typing import NDArray

from gen3d.cli import run_script
from gen3d.cohort.folder import open_prepared

Floats = NDArray[np.float32]

CHANNELS = ("t1w", "anterior", "posterior")


@dataclass(frozen=True)
class Crops:
    """Crops [n, 3, X, Y, Z] and their volumes, ml: labelled for real ones, else those of their label channels."""

    values: Floats
    volumes_ml: NDArray[np.float64]
    asked_ml: NDArray[np.float64]

    def spread(self, num: int, by: NDArray[np.float64]) -> NDArray[np.int64]:
        """Rows from the smallest to the largest, evenly spaced in rank."""
        return np.argsort(by)[np.linspace(0, len(by) - 1, num).astype(int)]


@dataclass(frozen=True)
class Folder:
    """Results of 09_synthetic_hippocampi.py."""

    prepared: Path
    out: Path
    shown: int | None

    @cached_property
    def quality(self) -> pd.DataFrame:
        """Distances."""
        return pd.read_csv(self.out / "distances.tsv", sep="\t")

    @cached_property
    def steps(self) -> list[int]:
        """Training steps of the models."""
        names = [str(name) for name in self.quality["set"].unique()]
        return sorted(int(name.removeprefix("synthetic_")) for name in names if name.startswith("synthetic_"))

    @cached_property
    def real(self) -> Crops:
        """One crop of every held-out person."""
        cohort = open_prepared(self.prepared)
        table = cohort.manifest[cohort.manifest["role"] == "calibration"].drop_duplicates("subject")
        labelled = table["hippocampus_ml"].to_numpy(float)
        return Crops(cohort.load(table["key"].tolist(), CHANNELS), labelled, labelled)

    @cached_property
    def reconstructed(self) -> Crops:
        """The same through the autoencoder."""
        crops = np.load(self.out / "reconstructed.npy")
        return Crops(crops, measured(crops), self.real.asked_ml)

    @cached_property
    def copied(self) -> list[float]:
        """Share of copies by steps, among the crops with the conditions of training people."""
        audits = [self.out / "samples" / f"like_{steps}" / "audit.json" for steps in self.steps]
        return [float(json.loads(path.read_text(encoding="utf-8"))["copies"]["value"]) for path in audits]

    @property
    def model(self) -> int:
        """Steps of the model whose crops are shown."""
        return self.shown or self.steps[-1]

    def synthetic(self, kind: str) -> Crops:
        """Crops of the model shown: `asked` (volume requested), or `like` (conditions of training people)."""
        made = open_prepared(self.out / "samples" / f"{kind}_{self.model}")
        crops = made.load(made.manifest["key"].tolist(), CHANNELS)
        return Crops(crops, measured(crops), made.manifest["requested_hippocampus_ml"].to_numpy(float))


def measured(crops: Floats) -> NDArray[np.float64]:
    """Volume of the label channels, ml."""
    return np.asarray(np.clip(crops[:, 1:], 0, 1).sum(axis=(1, 2, 3, 4)) / 1000, dtype=np.float64)


def sagittal(axis: Any, crop: Floats, title: str = "") -> None:
    """The middle sagittal slice of a crop [3, X, Y, Z], with the outline of its two labels."""
    middle = crop.shape[1] // 2
    axis.imshow(crop[0, middle].T, cmap="gray", vmin=0, vmax=1.3, origin="lower")
    inside = crop[1] + crop[2] > 0.5
    for channel, colour in ((1, "tab:orange"), (2, "tab:cyan")):
        part = inside[middle] & (crop[channel, middle] >= crop[3 - channel, middle])
        if part.any():
            axis.contour(part.T, [0.5], colors=colour, linewidths=0.8)
    axis.set_title(title, fontsize=8)
    axis.set_axis_off()


def draw_people(path: Path, folder: Folder, num: int = 8) -> None:
    """Real crops, the same reconstructed, and synthetic ones, all from small to large."""
    order, like = folder.real.spread(num, folder.real.volumes_ml), folder.synthetic("like")
    lines = {
        "real, held out": (folder.real, order),
        "reconstructed": (folder.reconstructed, order),
        f"synthetic, {folder.model} steps": (like, like.spread(num, like.volumes_ml)),
    }
    figure, axes = plt.subplots(len(lines), num, figsize=(1.9 * num, 1.6 * len(lines)), layout="constrained")
    for line, (name, (crops, rows)) in zip(axes, lines.items(), strict=True):
        for place, (axis, row) in enumerate(zip(line, rows, strict=True)):
            volume = f"{crops.volumes_ml[row]:.2f} ml"
            sagittal(axis, crops.values[row], f"{name}: {volume}" if place == 0 else volume)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw_summary(path: Path, folder: Folder, num: int = 6) -> None:
    """Synthetic crops by requested volume, means of real and synthetic thirds, fidelity, quality against steps."""
    asked, like = folder.synthetic("asked"), folder.synthetic("like")
    figure = plt.figure(figsize=(11, 7.4), layout="constrained")
    parts = figure.subfigures(3, 1, height_ratios=[0.75, 0.75, 2])
    for axis, row in zip(parts[0].subplots(1, num), asked.spread(num, asked.asked_ml), strict=True):
        sagittal(axis, asked.values[row], f"asked {asked.asked_ml[row]:.2f}, got {asked.volumes_ml[row]:.2f}")
    axes = iter(parts[1].subplots(1, num))
    for name, crops in (("real", folder.real), ("synthetic", like)):
        for third in np.array_split(np.argsort(crops.volumes_ml), num // 2):
            title = f"mean of {len(third)} {name}: {crops.volumes_ml[third].mean():.2f}"
            sagittal(next(axes), crops.values[third].mean(axis=0), title)
    left, right = parts[2].subplots(1, 2)
    draw_fidelity(left, folder, asked)
    draw_quality(right, folder)
    figure.suptitle(
        "Synthetic hippocampi, ml (orange anterior, cyan posterior), and means of real and synthetic ones", fontsize=10
    )
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw_fidelity(axis: Any, folder: Folder, asked: Crops) -> None:
    """Measured against requested volume."""
    again = folder.reconstructed
    label = f"reconstructed, {len(again.asked_ml)} held-out people"
    axis.plot(again.asked_ml, again.volumes_ml, "o", ms=4, mfc="none", color="0.5", label=label)
    label = f"synthetic, {folder.model} steps, {len(asked.asked_ml)} crops"
    axis.plot(asked.asked_ml, asked.volumes_ml, "o", ms=4, color="C0", label=label)
    axis.axline((3, 3), slope=1, color="0.7", lw=0.8)
    axis.set(xlabel="hippocampus asked for (or labelled), ml", ylabel="measured in the label channels, ml")
    axis.legend(frameon=False, fontsize=8)


def draw_quality(axis: Any, folder: Folder) -> None:
    """KID against training steps with the floor of real people and what reconstruction costs."""
    kid = folder.quality[folder.quality["metric"] == "kid"]
    for place, (extractor, rows) in enumerate(kid.groupby("extractor")):
        colour = f"C{place}"
        by_set = rows.set_index("set")[["value", "value_low", "value_high"]]
        by_set = by_set / float(by_set.loc["smoothed", "value"])
        mine = by_set.loc[[f"synthetic_{steps}" for steps in folder.steps]]
        axis.fill_between(folder.steps, mine["value_low"], mine["value_high"], color=colour, alpha=0.2, lw=0)
        axis.plot(folder.steps, mine["value"], "o-", color=colour, label=f"synthetic, {extractor} features")
        again = float(by_set.loc["reconstructed", "value"])
        axis.axhline(again, color=colour, ls=":", label=f"reconstructed, {extractor} features")
    axis.axhline(0, color="0.5", lw=0.8, label="real against real (mean)")
    axis.plot(folder.steps, folder.copied, "k^--", ms=5, label="share of crops that are copies of training crops")
    axis.set(
        xscale="log", xlabel="training steps of the diffusion model", ylabel="KID; real people smoothed by 2 mm: 1"
    )
    axis.legend(frameon=False, fontsize=8)


def main() -> None:
    """Draw both pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prepared", type=Path, required=True, help="folder of 09_synthetic_hippocampi_crops.py")
    parser.add_argument("--out", type=Path, required=True, help="folder of 09_synthetic_hippocampi.py")
    parser.add_argument("--shown", type=int, help="steps of the model whose crops are shown; default: the longest")
    folder = Folder(**vars(parser.parse_args()))
    draw_people(folder.out / "people.png", folder)
    draw_summary(folder.out / "summary.png", folder)


if __name__ == "__main__":
    run_script(main)
