"""How fast do volumes reach the trainer, against the loaders that a user would choose instead?

    python analysis/benchmarks/loader.py [--volumes 40] [--spacing 2] [--workers 2]

Inputs: none (simulated volumes on the 2 mm grid, one channel). One run reads the same volumes, shuffled, in batches of 4:

  gen3d          our memory-mapped int16 NIfTI, one reader thread
  TorchIO gz     SubjectsDataset of .nii.gz float32, RescaleIntensity off, DataLoader
  TorchIO nii    the same, uncompressed
  MONAI persistent   PersistentDataset (its cache of tensors on disk) of LoadImage + EnsureChannelFirst
  MONAI cache    CacheDataset (everything in memory)

Prints volumes/s of the first epoch, which for MONAI includes filling its cache, and of the second, with 0 and with
`--workers` worker processes where the loader has them. Files are in the page cache for all of them.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
import torchio as tio
from monai.data import CacheDataset, PersistentDataset
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged
from torch.utils.data import DataLoader, Dataset

from gen3d.cli import run_script
from gen3d.imaging.plan import GridPlan, plan_grid
from gen3d.imaging.volume import SLOPE, open_stored, store
from gen3d.train.augment import AugmentConfig
from gen3d.train.batches import Batches

BATCH_SIZE = 4
Epoch = Callable[[int], Iterator[torch.Tensor]]


class Stored:
    """Stored volumes as a source of the trainer, read as `Prepared.load` does: maps are opened once and kept."""

    channels = ("t1w",)

    def __init__(self, files: list[Path]) -> None:
        self.files = files
        self.subjects = [path.name for path in files]
        self._maps: dict[int, np.ndarray] = {}

    def load(self, rows: np.ndarray) -> np.ndarray:
        for row in rows:
            if int(row) not in self._maps:
                self._maps[int(row)] = open_stored(self.files[row])
        out = np.empty((len(rows), 1, *self._maps[int(rows[0])].shape), np.float32)
        for place, row in enumerate(rows):
            np.multiply(self._maps[int(row)], np.float32(SLOPE), out=out[place, 0], dtype=np.float32)
        return out

    def conditions(self, rows: np.ndarray) -> None:
        return None

    def labels(self, rows: np.ndarray) -> None:
        return None


def write(folder: Path, plan: GridPlan, count: int) -> dict[str, list[Path]]:
    """The same volumes three times: stored, .nii.gz, .nii."""
    rng = np.random.default_rng(0)
    files: dict[str, list[Path]] = {"stored": [], "gz": [], "nii": []}
    for index in range(count):
        data = rng.normal(0.5, 0.2, plan.shape).astype(np.float32) * (rng.random(plan.shape) > 0.5)
        paths = folder / f"{index}_stored.nii", folder / f"{index}.nii.gz", folder / f"{index}.nii"
        store(paths[0], data, plan.matrix)
        for path in paths[1:]:
            nib.save(nib.Nifti1Image(data.astype(np.float32), plan.matrix), path)
        for kind, path in zip(files, paths, strict=True):
            files[kind].append(path)
    return files


def ours(files: list[Path]) -> Epoch:
    """Batches of the trainer; an epoch is as many steps as it takes to read every volume once."""
    batches = Batches(Stored(files), np.arange(len(files)), BATCH_SIZE, 1, (0, 0), AugmentConfig(), torch.device("cpu"))
    steps = len(files) // BATCH_SIZE

    def epoch(number: int) -> Iterator[torch.Tensor]:
        for step in range(number * steps, (number + 1) * steps):
            yield batches.at(step, 0).volumes

    return epoch


def torchio(files: list[Path], workers: int) -> Epoch:
    """TorchIO's dataset of subjects in a torch DataLoader."""
    subjects = [tio.Subject(image=tio.ScalarImage(path)) for path in files]
    loader = tio.SubjectsLoader(tio.SubjectsDataset(subjects), batch_size=BATCH_SIZE, shuffle=True, num_workers=workers)
    return lambda number: (batch["image"][tio.DATA] for batch in loader)


def monai(files: list[Path], workers: int, cache: Path | None) -> Epoch:
    """MONAI's persistent cache in `cache`, or its cache in memory."""
    items = [{"image": str(path)} for path in files]
    load = Compose([LoadImaged(keys="image", image_only=True), EnsureChannelFirstd(keys="image")])
    dataset: Dataset
    if cache is not None:
        dataset = PersistentDataset(items, load, cache_dir=cache)
    else:
        dataset = CacheDataset(items, load, cache_rate=1.0, num_workers=1, progress=False)
    loader = DataLoader(dataset, batch_size=BATCH_SIZE, shuffle=True, num_workers=workers)
    return lambda number: (batch["image"] for batch in loader)


def rate(epoch: Epoch, number: int, started: float | None = None) -> float:
    """Volumes per second of one epoch, reading every value; counted from `started` where filling a cache belongs to it."""
    began = started or time.perf_counter()
    count = 0
    for batch in epoch(number):
        float(batch.sum())
        count += len(batch)
    return count / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--volumes", type=int, default=40)
    parser.add_argument("--spacing", type=float, default=2.0)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    plan = plan_grid(arguments.spacing)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = write(folder, plan, arguments.volumes)
        makers: dict[str, Callable[[], Epoch]] = {"gen3d (1 reader thread)": lambda: ours(files["stored"])}
        for workers in (0, arguments.workers):
            suffix = f", {workers} workers"
            makers[f"TorchIO gz{suffix}"] = lambda n=workers: torchio(files["gz"], n)
            makers[f"TorchIO nii{suffix}"] = lambda n=workers: torchio(files["nii"], n)
            makers[f"MONAI persistent{suffix}"] = lambda n=workers: monai(files["gz"], n, folder / f"cache{n}")
            makers[f"MONAI cache{suffix}"] = lambda n=workers: monai(files["gz"], n, None)
        print(f"{arguments.volumes} volumes of {' x '.join(map(str, plan.shape))}; volumes/s")
        print(f"{'':32s}{'1st epoch':>10s}{'2nd epoch':>10s}{'gen3d is':>10s}")
        best = None
        for label, make in makers.items():
            began = time.perf_counter()
            epoch = make()
            first, second = rate(epoch, 0, began), rate(epoch, 1)
            best = best or second
            print(f"{label:32s}{first:10.1f}{second:10.1f}{best / second:9.1f}x", flush=True)


if __name__ == "__main__":
    run_script(main)
