"""Where the debug configs find what they name, and the order in which they run: that of the data."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import torch
from monai.networks.nets import AutoencoderKL
from PIL import Image

from tests.phantoms import matrix, scan_of, write

DEBUG = Path(__file__).parents[2] / "configs" / "debug"
ORDER = (
    "prepare",
    "prepare-slices",
    "simulate",
    "simulate_more",
    "simulate_twins",
    "explore",
    "simulate_visits",
    "genotypes",
    "import-weights",
    "train_restorer",
    "train_vae",
    "train_pca",
    "train_voxelwise",
    "train_vae_spatial",
    "train_ldm",
    "train_classifier",
    "train_fusion",
    "train_copy_forward",
    "train_population_rate",
    "train_region_rate",
    "train_forecast",
    "train_vae_visits",
    "train_flow",
    "train_transition",
    "stages",
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
    "classify_genes",
    "explain",
    "stratify",
    "predict",
    "predict_fusion",
    "change",
    "forecast",
    "export",
    "export_norm",
    "export_forecasts",
    "export-model",
    "register",
    "evaluate",
    "evaluate_norm",
    "evaluate_forecasts",
    "serve",
    "sweep",
    "report",
    "reference",
)


def command(name: str) -> list[str]:
    """The words after `gen3d` that run one debug config."""
    words = [name.split("_")[0], f"configs/debug/{name}.yaml"]
    return [*words, "source=debug/bids", "out=debug/prepared"] if name == "prepare" else words


def lay_out(folder: Path) -> None:
    """Copy the configs below `folder`, with two phantom scans for `prepare`, slice images for `prepare-slices`, random weights
    for `import-weights`, and dosages with a table of weights for `genotypes`."""
    shutil.copytree(DEBUG, folder / "configs" / "debug")
    (folder / "debug").mkdir()
    torch.manual_seed(0)
    torch.save(AutoencoderKL(3, norm_num_groups=8).state_dict(), folder / "debug" / "weights.pt")
    for number in (1, 2):
        moved = matrix((8.0 * number, -4.0, 5.0))
        name = f"sub-{number:02d}"
        write(folder / "debug" / "bids" / name / "anat" / f"{name}_T1w.nii.gz", scan_of(moved, spacing_mm=4.0))
    for number, name in enumerate(("CN/a", "CN/b", "AD/c", "AD/d")):
        for place in range(3):
            image = folder / "debug" / "slices" / f"{name}_{place}.png"
            image.parent.mkdir(parents=True, exist_ok=True)
            values = np.random.default_rng([number, place]).integers(30, 220, (12, 16), dtype=np.uint8)
            Image.fromarray(values).save(image)
    rows = ["participant_id\tage\tsex\tgroup", "sub-01\t30\tF\tcontrol", "sub-02\t40\tM\tcontrol"]
    (folder / "debug" / "bids" / "participants.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    _lay_out_genotypes(folder / "debug")


def _lay_out_genotypes(folder: Path) -> None:
    """Dosages of the people that `simulate` makes, of the variants of APOE and two others, and a table of weights."""
    variants = ("2:127135234:T:C", "8:27607002:T:C", "19:44908684:C:T", "19:44908822:C:T")
    copies = np.random.default_rng(0).binomial(2, (0.4, 0.4, 0.15, 0.92), (30, len(variants)))
    rows = [
        "\t".join([f"S0P{number:03d}", *map(str, values)]) for number, values in enumerate(copies.tolist(), start=1)
    ]
    table = "\n".join(["\t".join(["subject", *variants]), *rows]) + "\n"
    (folder / "dosages.tsv").write_text(table, encoding="utf-8")
    weights = ["chr_name\tchr_position\teffect_allele\tother_allele\teffect_weight"]
    weights += [
        "\t".join([*name.split(":"), str(weight)])
        for name, weight in zip(variants, (0.17, -0.1, 1.2, 0.5), strict=True)
    ]
    (folder / "weights.tsv").write_text("\n".join(weights) + "\n", encoding="utf-8")
