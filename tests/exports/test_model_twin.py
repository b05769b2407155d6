"""The C++ program trains Liu's network as Python does: losses, weights and scores from the same weights and batches."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.ndimage import gaussian_filter
from torch.nn.functional import cross_entropy

from gen3d.exports.folder import write_floats, write_index
from gen3d.nets.classifiers.liu import LiuNetwork

SIDE, CLASSES, STEPS, RATE = 87, 3, 20, 1.8e-3
"""The smallest grid, and the published rate."""


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six raw volumes of three classes, 20 batches of one, and initial weights of width 1."""
    folder = tmp_path_factory.mktemp("scans")
    rng = np.random.default_rng(0)
    listed = []
    for index in range(6):
        field = gaussian_filter(rng.standard_normal((SIDE,) * 3), 1.5)
        write_floats(folder / f"{index}.f32", field / field.std())
        listed.append({"key": str(index), "file": f"{index}.f32", "label": index % CLASSES})
    write_index(folder, (1, SIDE, SIDE, SIDE), ("t1w",), listed)
    (folder / "batches.json").write_text(json.dumps([[int(rng.integers(6))] for _ in range(STEPS)]))
    torch.manual_seed(0)
    save_file(dict(LiuNetwork(1, (SIDE,) * 3, CLASSES, width=1).state_dict()), folder / "weights.safetensors")
    return folder


def run(programs: Path, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """The program on a folder of scans."""
    words = [
        folder / "weights.safetensors",
        folder,
        folder / "batches.json",
        "--rate",
        str(RATE),
        "--threads",
        "1",
        *options,
    ]
    command = [programs / "gen3d_train_liu", *words]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)


def in_python(folder: Path) -> tuple[list[float], LiuNetwork, list[list[float]]]:
    """The same training here: losses, the trained network, and its scores of all scans."""
    torch.set_num_threads(1)
    network = LiuNetwork(1, (SIDE,) * 3, CLASSES, width=1)
    network.load_state_dict(load_file(folder / "weights.safetensors"))
    volumes = torch.stack(
        [torch.from_numpy(np.fromfile(folder / f"{i}.f32", "<f4")).view(1, SIDE, SIDE, SIDE) for i in range(6)]
    )
    adam = torch.optim.Adam(network.parameters(), lr=RATE)
    losses = []
    for rows in json.loads((folder / "batches.json").read_text()):
        adam.zero_grad()
        loss = cross_entropy(network(volumes[rows]), torch.tensor(rows) % CLASSES)
        loss.backward()
        adam.step()
        losses.append(loss.item())
    with torch.no_grad():
        scores = [network(volume[None])[0].tolist() for volume in volumes]
    return losses, network, scores


def test_twenty_steps_are_those_of_python(programs: Path, scans: Path, tmp_path: Path) -> None:
    """The losses within 1e-6, the scores within 1e-4, and every weight but the biases before an instance normalisation."""
    done = run(programs, scans, "--write", str(tmp_path / "trained.safetensors"))
    assert done.returncode == 0, done.stderr
    figures: dict[str, Any] = json.loads(done.stdout)
    losses, network, scores = in_python(scans)
    assert max(losses) > 1.1 * min(losses), "the training goes somewhere"
    np.testing.assert_allclose(figures["losses"], losses, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(figures["scores"], scores, atol=1e-4)
    trained, before = load_file(tmp_path / "trained.safetensors"), load_file(scans / "weights.safetensors")
    assert set(trained) == set(network.state_dict())
    for name, weights in network.state_dict().items():
        assert not torch.equal(trained[name], before[name]), name
        if "block" not in name or not name.endswith("bias"):
            torch.testing.assert_close(trained[name], weights, rtol=1e-5, atol=1e-6)
    assert figures["seconds"] > 0
    assert figures["cpu_seconds"] > 0
    assert figures["peak_bytes"] > 4 * 6 * SIDE**3


def test_reading_batches_meanwhile_changes_nothing(programs: Path, scans: Path, tmp_path: Path) -> None:
    folder = tmp_path / "fewer"
    folder.mkdir()
    for path in scans.iterdir():
        (folder / path.name).symlink_to(path)
    (folder / "batches.json").unlink()
    (folder / "batches.json").write_text("[[0], [1, 2], [3]]")
    kept, read = (json.loads(run(programs, folder, *options).stdout) for options in ((), ("--loader",)))
    assert kept["losses"] == read["losses"]
    assert kept["scores"] == read["scores"]


WRONG = {
    "weights of another network": ("weights.safetensors", "instance normalisation"),
    "no safetensors": ("weights.safetensors", "no safetensors file"),
    "a volume cut short": ("0.f32", "holds 1000 bytes"),
    "a row that is none": ("batches.json", "row 6: no such scan"),
    "no JSON": ("index.json", "not JSON at byte"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_files_are_a_sentence(name: str, programs: Path, scans: Path, tmp_path: Path) -> None:
    for path in scans.iterdir():
        (tmp_path / path.name).symlink_to(path)
    file, sentence = WRONG[name]
    (tmp_path / file).unlink()
    if name == "weights of another network":
        save_file({**load_file(scans / file), "stages.head.age.weight": torch.zeros(3)}, tmp_path / file)
    elif name == "a row that is none":
        (tmp_path / file).write_text("[[6]]")
    else:
        (tmp_path / file).write_bytes((scans / file).read_bytes()[:1000] if file == "0.f32" else b'{"a": tru' * 9)
    done = run(programs, tmp_path)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
