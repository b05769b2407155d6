"""Does training a 3D CNN in C++ save time or memory, against the same training in Python?

    python analysis/benchmarks/python_and_cpp.py PROGRAMS [--threads 1 2] [--steps 20] [--batch 4] [--side 96] [--width 1]

Inputs: PROGRAMS, the folder that `launch/build_cpp.sh` built. Simulated scans: random fields with a bright middle, which is
brighter in the second class. Python (torch.optim.Adam, gen3d's LiuNetwork) and the C++ program train from the same weights
on the same batches, once with all scans in memory, once with a loader that reads the next batch's raw files meanwhile: a
DataLoader with one worker process in Python, a thread in C++.

Every row is a process of its own. Prints, for each number of threads: seconds and CPU seconds of the steps (workers included),
peak memory of the process (with its worker's), loss of the last step, AUC on scans that were not trained on, and the largest
difference of a loss between the two programs.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter

from gen3d.cli import run_script

RATE = 1e-4
BRIGHTNESS = (0.0, 3.0)
"""Of the middle, by class, in standard deviations of the field."""

SEED = 0
LANGUAGES = ("python", "cpp")


def write_scans(folder: Path, num: int, side: int) -> list[int]:
    """Raw volumes and index.json, classes in turn; the labels."""
    from gen3d.exports.folder import write_floats, write_index

    rng = np.random.default_rng(SEED)
    labels = [index % 2 for index in range(num)]
    ramp = np.linspace(-3, 3, side) ** 2
    middle = np.exp(-0.5 * (ramp[:, None, None] + ramp[:, None] + ramp))
    scans = []
    for index, label in enumerate(labels):
        field = gaussian_filter(rng.standard_normal((side,) * 3), 2.0)
        write_floats(folder / f"{index}.f32", field / field.std() + BRIGHTNESS[label] * middle)
        scans.append({"key": str(index), "file": f"{index}.f32", "label": label})
    write_index(folder, (1, side, side, side), ("t1w",), scans)
    return labels


def write_weights(path: Path, side: int, width: int) -> None:
    """Random weights of the network, from a fixed seed."""
    import torch
    from safetensors.torch import save_file

    from gen3d.nets.classifiers.liu import LiuNetwork

    torch.manual_seed(SEED)
    save_file({k: v.clone() for k, v in LiuNetwork(1, (side,) * 3, 2, width=width).state_dict().items()}, path)


def batches_of(folder: Path, side: int, batches: list[list[int]], labels: list[int], loader: bool) -> Iterable[Any]:
    """Volumes [B, 1, side, side, side] and labels [B] of every step."""
    import torch
    from torch.utils.data import DataLoader, Dataset

    class Scans(Dataset):
        def __getitem__(self, row: int) -> tuple[Any, int]:
            values = np.fromfile(folder / f"{row}.f32", dtype="<f4").reshape(1, side, side, side)
            return torch.from_numpy(values), labels[row]

    scans = Scans()
    if loader:
        return DataLoader(scans, batch_sampler=batches, num_workers=1)
    kept = [scans[row] for row in range(len(labels))]

    def stacked() -> Iterator[Any]:
        for rows in batches:
            yield torch.stack([kept[row][0] for row in rows]), torch.tensor([labels[row] for row in rows])

    return stacked()


def used_s() -> float:
    """CPU seconds of this process and of its workers that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def train_in_python(folder: Path, side: int, width: int, threads: int, loader: bool) -> dict[str, Any]:
    """The row of Python, in this process."""
    import torch
    from safetensors.torch import load_file
    from torch.nn.functional import cross_entropy

    from gen3d.nets.classifiers.liu import LiuNetwork

    torch.set_num_threads(threads)
    network = LiuNetwork(1, (side,) * 3, 2, width=width)
    network.load_state_dict(load_file(folder / "weights.safetensors"))
    labels = [scan["label"] for scan in json.loads((folder / "index.json").read_text())["scans"]]
    batches = json.loads((folder / "batches.json").read_text())
    given = batches_of(folder, side, batches, labels, loader)
    adam = torch.optim.Adam(network.parameters(), lr=RATE)
    losses = []
    began, cpu_before = time.perf_counter(), used_s()
    for volumes, classes in given:
        adam.zero_grad()
        loss = cross_entropy(network(volumes), classes)
        loss.backward()
        adam.step()
        losses.append(loss.item())
    seconds = time.perf_counter() - began
    del given
    figures = {"losses": losses, "seconds": seconds, "cpu_seconds": used_s() - cpu_before}
    peaks = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    with torch.no_grad():
        volumes = (torch.from_numpy(np.fromfile(folder / f"{row}.f32", dtype="<f4")) for row in range(len(labels)))
        scores = [network(each.view(1, 1, side, side, side))[0].double().tolist() for each in volumes]
    return {**figures, "peak_bytes": 1024 * sum(peaks), "scores": scores}


def row(
    language: str, programs: Path, folder: Path, side: int, width: int, threads: int, loader: bool
) -> dict[str, Any]:
    """One training in a process of its own."""
    options = ["--threads", str(threads), *(["--loader"] if loader else [])]
    if language == "python":
        command = [sys.executable, str(Path(__file__)), str(programs), "--row", str(folder)]
        command += ["--side", str(side), "--width", str(width), *options]
    else:
        places = [folder / "weights.safetensors", folder, folder / "batches.json"]
        command = [str(programs / "gen3d_train_liu"), *map(str, places), "--rate", str(RATE), *options]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    figures: dict[str, Any] = json.loads(output.splitlines()[-1])
    return figures


def auc(scores: list[list[float]], labels: list[int], rows: list[int]) -> float:
    """Share of pairs of scans of the two classes that are in the right order."""
    margins = {label: [scores[r][1] - scores[r][0] for r in rows if labels[r] == label] for label in (0, 1)}
    pairs = [(high > low) + 0.5 * (high == low) for high in margins[1] for low in margins[0]]
    return float(np.mean(pairs))


def compare(arguments: argparse.Namespace) -> None:
    """Run and print all rows."""
    side, width, batch = arguments.side, arguments.width, arguments.batch
    print(f"{side}^3 voxels, width {width}, batch {batch}, {arguments.steps} steps")
    header = f"{'threads':>7s} {'scans':>9s} {'program':>8s}{'s':>8s}{'CPU s':>8s}{'peak GiB':>10s}{'last loss':>11s}{'AUC':>6s}"
    print(header + f"{'difference':>12s}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        labels = write_scans(folder, 2 * arguments.scans, side)
        trained, tested = list(range(arguments.scans)), list(range(arguments.scans, 2 * arguments.scans))
        rng = np.random.default_rng(SEED)
        batches = [[int(r) for r in rng.choice(trained, batch, replace=False)] for _ in range(arguments.steps)]
        (folder / "batches.json").write_text(json.dumps(batches))
        write_weights(folder / "weights.safetensors", side, width)
        for threads in arguments.threads:
            for loader in (False, True):
                reference: list[float] = []
                for language in LANGUAGES:
                    found = row(language, arguments.programs, folder, side, width, threads, loader)
                    reference = reference or found["losses"]
                    difference = float(np.abs(np.subtract(reference, found["losses"])).max())
                    print(
                        f"{threads:7d} {'loader' if loader else 'in memory':>9s} {language:>8s}{found['seconds']:8.1f}"
                        f"{found['cpu_seconds']:8.1f}{found['peak_bytes'] / 2**30:10.2f}{found['losses'][-1]:11.6f}"
                        f"{auc(found['scores'], labels, tested):6.2f}{difference:12.1e}",
                        flush=True,
                    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("programs", type=Path, help="folder that launch/build_cpp.sh built")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--scans", type=int, default=12, help="scans to train on, and as many to test on")
    parser.add_argument("--side", type=int, default=96)
    parser.add_argument("--width", type=int, default=1, choices=(1, 2, 4, 8))
    parser.add_argument("--loader", action="store_true", help="with --row")
    parser.add_argument("--row", type=Path, help="train in this process on what lies in this folder; prints JSON")
    arguments = parser.parse_args()
    if arguments.row:
        threads, loader = arguments.threads[0], arguments.loader
        print(json.dumps(train_in_python(arguments.row, arguments.side, arguments.width, threads, loader)))
    else:
        compare(arguments)


if __name__ == "__main__":
    run_script(main)
