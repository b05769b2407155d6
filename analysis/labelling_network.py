"""A network that labels 19 parts of a head at 2 mm, trained on labelled scans or on images made of label maps alone.

The network is the U-Net of `gen3d.nets.unet` (Ronneberger et al. 2015) with 1.7 million weights; its loss is cross-entropy plus
soft Dice (Milletari et al. 2016). `ScanSamples` are real scans with labels; `MapSamples` are images of label maps with a random
intensity for every label (Billot et al., Medical Image Analysis 2023, "SynthSeg"), half of them ordered as in T1w.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from gen3d.core.progress import say
from gen3d.imaging.background import background_at_zero
from gen3d.imaging.resample import working_copy
from gen3d.imaging.volume import Volume, read_scan, read_volume
from gen3d.nets.unet import UNet

CLASSES: dict[str, tuple[tuple[str, ...], tuple[int, ...]]] = {
    "cerebral white matter": ((), (2, 41, 77, 251, 252, 253, 254, 255)),
    "cortex": (("BasalForebrain",), (3, 42)),
    "fluid": (("CortCSF", "5thVentricle", "Vessel", "?"), (24, 30, 62, 72)),
    "lateral ventricle": (("LateralVentricle", "Lateral_Ventricle"), (4, 31, 43, 63)),
    "inferior lateral ventricle": (("InfLatVentricle",), (5, 44)),
    "third ventricle": (("3rdVentricle",), (14,)),
    "fourth ventricle": (("4thVentricle",), (15,)),
    "cerebellar white matter": (("Cerebellum_WM",), (7, 46)),
    "cerebellar cortex": (("CerebellumExterior", "CerebellarVermalLobules"), (8, 47)),
    "thalamus": (("ThalamusProper",), (9, 10, 48, 49)),
    "caudate": (("Caudate",), (11, 50)),
    "putamen": (("Putamen",), (12, 51)),
    "pallidum": (("Pallidum",), (13, 52)),
    "brain-stem": (("BrainStem",), (16,)),
    "hippocampus": (("Hippocampus",), (17, 53)),
    "amygdala": (("Amygdala",), (18, 54)),
    "accumbens": (("AccumbensArea",), (26, 58)),
    "ventral diencephalon": (("VentralDC",), (28, 60)),
}
"""Part -> how its labels begin in the tables of labelled scans, and its numbers in label maps. 0 is everything else."""
NAMES = tuple(CLASSES)
FIRST_GYRUS, WHITE_MATTER = 100, range(81, 96)
"""Neuromorphometrics numbers: gyri from 100 on, lobes' white matter and tracts from 81 to 95."""

SIDES = (80, 96, 80)
WIDTHS, GROUPS, STEM = (32, 64, 128), 8, 2
ROOM = 8
"""Voxels around the training window, so that a turned head does not end at it."""
FLUIDS = ("fluid", "lateral ventricle", "inferior lateral ventricle", "third ventricle", "fourth ventricle")
WHITES = ("cerebral white matter", "cerebellar white matter", "brain-stem")

Sample = Callable[[np.random.Generator], tuple[Tensor, Tensor]]
"""A generator -> image [X, Y, Z] float32 and classes [X, Y, Z] int64, both of `SIDES`."""


def network() -> UNet:
    """The network with random weights: [B, 1, X, Y, Z] -> logits [B, 19, X, Y, Z]."""
    return UNet(1, len(NAMES) + 1, WIDTHS, GROUPS, STEM)


def classes_of_table(table: Path) -> NDArray[np.uint8]:
    """Label number -> class, by the names in a table of labels (columns index and name)."""
    found = np.zeros(400, np.uint8)
    for row in pd.read_csv(table, sep="\t").itertuples(index=False):
        number = int(row.index)  # type: ignore[arg-type]
        begins = [i for i, (names, _) in enumerate(CLASSES.values(), 1) if str(row.name).startswith(names) and names]
        found[number] = begins[0] if begins else 0
    found[FIRST_GYRUS:208] = NAMES.index("cortex") + 1
    found[list(WHITE_MATTER)] = NAMES.index("cerebral white matter") + 1
    return found


def classes_of_map() -> NDArray[np.uint8]:
    """Label number of FreeSurfer -> class."""
    found = np.zeros(1000, np.uint8)
    for place, (_, numbers) in enumerate(CLASSES.values(), 1):
        found[list(numbers)] = place
    return found


def scaled(data: NDArray[np.float32]) -> NDArray[np.float32]:
    """A scan between 0 and the 99.5th percentile of what is brighter than a twentieth of its maximum."""
    bright = data[data > 0.05 * float(np.percentile(data, 99.9))]
    top = float(np.percentile(bright, 99.5)) if bright.size else 1.0
    return np.asarray(np.clip(data / top, 0, 1.2), np.float32)


class ScanSamples:
    """Labelled scans: turned, sheared, with another contrast, bias, blur and noise, half of them with the skull taken off."""

    def __init__(self, scans: list[Path], table: Path) -> None:
        classes = classes_of_table(table)
        self.people = []
        for path in scans:
            scan = working_copy(background_at_zero(read_scan(path).volume()))
            labels = classes[np.rint(read_volume(path.with_name(path.name.replace("_T1w", "_dseg"))).data).astype(int)]
            self.people.append(_window(scaled(scan.data), labels))

    def __call__(self, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
        image, labels = self.people[generator.integers(len(self.people))]
        moved, classes = _moved(torch.from_numpy(image), torch.from_numpy(labels), generator)
        return _appearance(moved, classes, generator), classes


class MapSamples:
    """Images of label maps at 1 mm: each label gets an intensity and a texture at random; then as labelled scans."""

    def __init__(self, maps: list[Path]) -> None:
        classes = classes_of_map()
        self.people = []
        for path in maps:
            labels = np.rint(np.asarray(nib.as_closest_canonical(nib.load(path)).dataobj)).astype(np.int16)
            centre = np.rint(np.argwhere(classes[labels] > 0).mean(axis=0)).astype(int)
            fine = _around(labels, centre, tuple(2 * (side + 2 * ROOM) for side in SIDES))
            self.people.append((fine, _most(classes[fine])))
        self.num_labels = 1 + max(int(fine.max()) for fine, _ in self.people)
        self.classes = classes[: self.num_labels]

    def __call__(self, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
        fine, labels = self.people[generator.integers(len(self.people))]
        means, of_class = generator.uniform(0, 1, self.num_labels), generator.uniform(0, 1, len(NAMES) + 1)
        means[self.classes > 0] = of_class[self.classes[self.classes > 0]]  # both sides look alike
        if generator.random() < 0.5:
            self._order_as_t1w(means, generator)
        if generator.random() < 0.8:
            means[0] = 0
        spread = generator.uniform(0.01, 0.08, self.num_labels) * (np.arange(self.num_labels) > 0)
        noise = generator.standard_normal(fine.shape, dtype=np.float32)
        image = torch.from_numpy((means.astype(np.float32)[fine] + spread.astype(np.float32)[fine] * noise).clip(0))
        coarse = F.avg_pool3d(image[None, None], 2)[0, 0]
        moved, classes = _moved(coarse, torch.from_numpy(labels), generator)
        return _appearance(moved, classes, generator), classes

    def _order_as_t1w(self, means: NDArray[np.float64], generator: np.random.Generator) -> None:
        """Fluid dark, grey matter between, white matter bright."""
        fluid, grey, white = generator.uniform((0.05, 0.4, 0.75), (0.25, 0.65, 1.0))
        for place, name in enumerate(NAMES, 1):
            level = fluid if name in FLUIDS else white if name in WHITES else grey
            if name in ("pallidum", "thalamus", "ventral diencephalon"):
                level = grey + generator.uniform(0.2, 0.9) * (white - grey)
            means[self.classes == place] = max(0.0, level + generator.uniform(-0.03, 0.03))


def _most(classes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The class that fills most of every 2 x 2 x 2 block."""
    x, y, z = (side // 2 for side in classes.shape)
    blocks = classes.reshape(x, 2, y, 2, z, 2).transpose(0, 2, 4, 1, 3, 5).reshape(x, y, z, 8)
    counts = np.stack([(blocks == place).sum(axis=3) for place in range(len(NAMES) + 1)], axis=3)
    return counts.argmax(axis=3).astype(np.uint8)


def _window(image: NDArray[np.float32], labels: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    centre = np.rint(np.argwhere(labels > 0).mean(axis=0)).astype(int)
    shape = tuple(side + 2 * ROOM for side in SIDES)
    return _around(image, centre, shape), _around(labels, centre, shape)


def _around(values: NDArray[Any], centre: NDArray[np.int_], shape: tuple[int, ...]) -> NDArray[Any]:
    """The part of so many voxels around a voxel, 0 beyond the volume."""
    result = np.zeros(shape, values.dtype)
    start = centre - np.array(shape) // 2
    low, high = np.maximum(start, 0), np.minimum(start + shape, values.shape)
    there = tuple(slice(*pair) for pair in zip(low, high, strict=True))
    result[tuple(slice(*pair) for pair in zip(low - start, high - start, strict=True))] = values[there]
    return result


def _moved(image: Tensor, labels: Tensor, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Both flipped, turned, sheared, scaled, shifted and bent in the same way, on `SIDES`."""
    if generator.random() < 0.5:
        image, labels = image.flip(0), labels.flip(0)
    turn, shear = generator.uniform(-0.2, 0.2, 3), np.triu(generator.uniform(-0.1, 0.1, (3, 3)), 1)
    x, y, z = (
        np.array(rows)
        for rows in (
            [[1, 0, 0], [0, np.cos(turn[0]), -np.sin(turn[0])], [0, np.sin(turn[0]), np.cos(turn[0])]],
            [[np.cos(turn[1]), 0, np.sin(turn[1])], [0, 1, 0], [-np.sin(turn[1]), 0, np.cos(turn[1])]],
            [[np.cos(turn[2]), -np.sin(turn[2]), 0], [np.sin(turn[2]), np.cos(turn[2]), 0], [0, 0, 1]],
        )
    )
    matrix = x @ y @ z @ np.diag(generator.uniform(0.85, 1.15, 3)) @ (np.eye(3) + shear)
    shift = generator.uniform(-ROOM, ROOM, 3)
    places = torch.stack(torch.meshgrid(*(torch.arange(side) - (side - 1) / 2 for side in SIDES), indexing="ij"), -1)
    places = places @ torch.from_numpy(matrix.T.astype(np.float32)) + torch.from_numpy(shift.astype(np.float32))
    bend = torch.from_numpy(generator.normal(0, 1.5, (1, 3, 6, 7, 6)).astype(np.float32))
    places = places + F.interpolate(bend, SIDES, mode="trilinear", align_corners=True)[0].permute(1, 2, 3, 0)
    half = torch.tensor([side / 2 for side in image.shape])
    grid = (places / half).flip(-1)[None]
    moved = F.grid_sample(image[None, None], grid, mode="bilinear", align_corners=False)[0, 0]
    classes = F.grid_sample(labels[None, None].float(), grid, mode="nearest", align_corners=False)[0, 0]
    return moved, classes.round().long()


def _appearance(image: Tensor, classes: Tensor, generator: np.random.Generator) -> Tensor:
    """With or without the skull, another contrast, bias, blur and noise, and the scale of `scaled`."""
    values = image.numpy()
    if generator.random() < 0.5:
        brain = ndimage.binary_closing(classes.numpy() > 0, iterations=2)
        grown = int(generator.integers(0, 3))
        values = np.where(ndimage.binary_dilation(brain, iterations=grown) if grown else brain, values, 0)
    values = np.maximum(values, 0) ** np.exp(generator.normal(0, 0.25))
    field = torch.from_numpy(generator.normal(0, 0.2, (1, 1, 4, 4, 4)).astype(np.float32))
    values = values * F.interpolate(field, SIDES, mode="trilinear", align_corners=True)[0, 0].exp().numpy()
    if generator.random() < 0.5:
        values = ndimage.gaussian_filter(values, generator.uniform(0, 0.8, 3))
    top = float(values.max()) or 1.0
    values = values + generator.normal(0, generator.uniform(0, 0.04) * top, values.shape)
    return torch.from_numpy(scaled(np.maximum(values, 0).astype(np.float32)))


def loss_of(logits: Tensor, classes: Tensor) -> Tensor:
    """Cross-entropy plus one minus the mean soft Dice of the classes that are there."""
    shares = logits.softmax(dim=1)
    truth = F.one_hot(classes, logits.shape[1]).movedim(-1, 1).to(shares.dtype)
    both, either = (shares * truth).sum(dim=(0, 2, 3, 4)), (shares + truth).sum(dim=(0, 2, 3, 4))
    there = truth.sum(dim=(0, 2, 3, 4)) > 0
    return F.cross_entropy(logits, classes) + 1 - (2 * both / (either + 1))[there].mean()


def train(sample: Sample, steps: int, path: Path, learning_rate: float = 2e-3, every: int = 50) -> UNet:
    """Train for so many steps of one volume and keep the weights in `path`; a stopped training goes on."""
    torch.manual_seed(0)
    net = network().to(memory_format=torch.channels_last_3d)
    optimiser = torch.optim.AdamW(net.parameters(), lr=learning_rate, weight_decay=1e-4)
    plan = torch.optim.lr_scheduler.OneCycleLR(optimiser, learning_rate, total_steps=steps, pct_start=0.1)
    done = 0
    if path.is_file():
        state = torch.load(path, weights_only=True)
        net.load_state_dict(state["net"])
        optimiser.load_state_dict(state["optimiser"])
        plan.load_state_dict(state["plan"])
        done = int(state["step"])
    losses = []
    for step in range(done, steps):
        image, classes = sample(np.random.default_rng([step, 30]))
        with torch.autocast("cpu", torch.bfloat16):
            logits = net(image[None, None].to(memory_format=torch.channels_last_3d))
        loss = loss_of(logits.float(), classes[None])
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        plan.step()
        losses.append(float(loss.detach()))
        if (step + 1) % every == 0 or step + 1 == steps:
            say(f"{path.stem}: step {step + 1} of {steps}, loss {np.mean(losses[-every:]):.3f}")
            state = {"net": net.state_dict(), "optimiser": optimiser.state_dict(), "plan": plan.state_dict()}
            torch.save(state | {"step": step + 1}, path)
    return net.eval()


@dataclass(frozen=True)
class Labelled:
    """Shares of every class [19, X, Y, Z] of a scan's working copy, and its affine."""

    shares: NDArray[np.float32]
    affine: NDArray[np.float64]

    def brain(self) -> NDArray[np.bool_]:
        """What is not class 0, in one piece and without holes [X, Y, Z]."""
        pieces, num = ndimage.label(self.shares.argmax(axis=0) > 0)
        if num == 0:
            return np.zeros(self.shares.shape[1:], bool)
        return np.asarray(ndimage.binary_fill_holes(pieces == 1 + int(np.bincount(pieces.ravel())[1:].argmax())))


def label(net: UNet, scan: Volume) -> Labelled:
    """The classes of a scan of about 2 mm with any field of view, mean of the scan and its mirror image."""
    image = torch.from_numpy(scaled(np.ascontiguousarray(scan.data)))
    pad = [(-side) % net.reduction for side in image.shape]
    padded = F.pad(image, (0, pad[2], 0, pad[1], 0, pad[0]))[None, None]
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        both = [net(turned.to(memory_format=torch.channels_last_3d)).float() for turned in (padded, padded.flip(2))]
    shares = (both[0].softmax(1) + both[1].flip(2).softmax(1))[0] / 2
    x, y, z = image.shape
    return Labelled(shares[:, :x, :y, :z].numpy(), scan.affine)
