"""Where the debug configs find what they name, and the order in which they run: that of the data."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from monai.networks.nets import AutoencoderKL

from tests.phantoms import matrix, scan_of, write

DEBUG = Path(__file__).parents[2] / "configs" / "debug"
ORDER = (
    "prepare",
    "simulate",
    "simulate_more",
    "simulate_twins",
    "import-weights",
    "train_restorer",
    "train_vae",
    "train_pca",
    "train_voxelwise",
    "train_classifier",
    "train_vae_spatial",
    "train_ldm",
    "sample",
    "quality",
    "encode",
    "reconstruct",
    "anomaly",
    "norm",
    "norm_more",
    "norm_merge",
    "anomaly_norm",
    "harmonise",
    "classify",
    "stratify",
    "predict",
    "change",
    "export",
    "export_norm",
    "evaluate",
    "evaluate_norm",
    "sweep",
    "report",
)


def command(name: str) -> list[str]:
    """The words after `gen3d` that run one debug config."""
    words = [name.split("_")[0], f"configs/debug/{name}.yaml"]
    return [*words, "source=debug/bids", "out=debug/prepared"] if name == "prepare" else words


def lay_out(folder: Path) -> None:
    """Copy the configs below `folder`, with two phantom scans for `prepare` and random weights for `import-weights`."""
    shutil.copytree(DEBUG, folder / "configs" / "debug")
    (folder / "debug").mkdir()
    torch.manual_seed(0)
    torch.save(AutoencoderKL(3, norm_num_groups=8).state_dict(), folder / "debug" / "weights.pt")
    for number in (1, 2):
        moved = matrix((8.0 * number, -4.0, 5.0))
        name = f"sub-{number:02d}"
        write(folder / "debug" / "bids" / name / "anat" / f"{name}_T1w.nii.gz", scan_of(moved, spacing_mm=4.0))
    rows = ["participant_id\tage\tsex\tgroup", "sub-01\t30\tF\tcontrol", "sub-02\t40\tM\tcontrol"]
    (folder / "debug" / "bids" / "participants.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
