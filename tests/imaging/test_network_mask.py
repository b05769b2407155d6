"""A network's brain mask is used where it can be right, and the template's, with the reason, where it cannot."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from gen3d.cohort.screening import judge
from gen3d.core.errors import UserError
from gen3d.imaging import network_mask
from gen3d.imaging.affine import depth_in_template, registration_template
from gen3d.imaging.conform import MASK_REMARK, conform
from gen3d.imaging.network_mask import deepbet_files
from gen3d.imaging.plan import plan_grid
from gen3d.imaging.resample import sample
from gen3d.imaging.volume import Volume, read_volume
from gen3d.nets import deepbet
from gen3d.nets.deepbet import brain_network
from tests.phantoms import matrix, scan_of, write

PLAN, TRUE = plan_grid(4.0, channels=("t1w",)), matrix()


def _brain(scan: Volume, deeper_mm: float = 0.0) -> np.ndarray:
    """The template's brain where it truly lies, or its inner part."""
    to_template = np.linalg.inv(TRUE) @ scan.affine
    depth = sample(
        Volume(depth_in_template(), registration_template().affine), to_template, scan.data.shape, outside=-99
    )
    return np.asarray(depth > deeper_mm)


def _measures(tmp_path: Path, found: Any) -> dict[str, Any]:
    path = write(tmp_path / "head.nii.gz", scan_of(TRUE, spacing_mm=4.0, head=True))
    return conform(path, PLAN, "deepbet", bias_correction=False, network=lambda scan: found(scan)).measures


def test_a_mask_that_agrees_is_used(tmp_path: Path) -> None:
    measures = _measures(tmp_path, _brain)
    assert (measures["brain_mask"], measures[MASK_REMARK]) == ("deepbet", "")
    assert float(measures["mask_dice"]) > 0.95


def _pieces(scan: Volume) -> np.ndarray:
    brain = _brain(scan)
    middle = brain.shape[0] // 2
    brain[middle - 2 : middle + 2] = False
    return brain


WRONG = {
    "nothing": (lambda scan: np.zeros(scan.data.shape, bool), "it found no brain"),
    "two halves": (_pieces, "lies in pieces, the largest of which holds 5"),
    "the head": (lambda scan: scan.data > 40, "0.7 to 2 L are believed"),
    "a core": (lambda scan: _brain(scan, 22.0), "0.7 to 2 L are believed"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_mask_that_cannot_be_right_gives_way_and_the_verdict_says_why(what: str, tmp_path: Path) -> None:
    found, reason = WRONG[what]
    measures = _measures(tmp_path, found)
    assert measures["brain_mask"] == "template"
    verdict = judge(pd.DataFrame([{"failure": "", **measures}])).iloc[0]
    assert verdict["verdict"] == "warn"
    assert "the mask of deepbet was not used" in verdict["reason"]
    assert reason in verdict["reason"]
    assert float(measures["mask_dice"]) > 0.9, "the template's mask is as good as ever"


def test_a_mask_beside_the_brain_is_seen_by_its_overlap(tmp_path: Path) -> None:
    measures = _measures(tmp_path, lambda scan: np.indices(scan.data.shape)[2] > 0.64 * scan.data.shape[2])
    assert "not used" in str(measures[MASK_REMARK])


def test_a_package_that_is_missing_or_changed_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    with monkeypatch.context() as patched:
        patched.setattr(network_mask.importlib.metadata, "files", absent)
        with pytest.raises(UserError, match=r"needs the package deepbet; pip install 'gen3d\[masks\]'"):
            deepbet_files()
    for name in network_mask.DEEPBET_FILES:
        (tmp_path / name).write_bytes(b"another network")
    monkeypatch.setattr(deepbet, "deepbet_files", lambda: tuple(tmp_path / name for name in network_mask.DEEPBET_FILES))
    deepbet._networks.cache_clear()
    with pytest.raises(UserError, match="is not the file of deepbet"):
        brain_network("deepbet")
    assert brain_network("auto") is None


@pytest.mark.real
def test_the_networks_find_a_real_brain(real_data: Path) -> None:
    pytest.importorskip("torch")
    try:
        deepbet_files()
    except UserError:
        pytest.skip("deepbet is not installed")
    deepbet._networks.cache_clear()
    folder = real_data / "t1w_ixi_2mm" / "sub-IXI014" / "anat"
    found = deepbet.find_brain_in(read_volume(folder / "sub-IXI014_T1w.nii.gz"))
    labels = read_volume(folder / "sub-IXI014_dseg.nii.gz").data > 0
    assert 2 * (found & labels).sum() / (found.sum() + labels.sum()) > 0.96
