"""Report section of `gen3d reconstruct`: a held-out healthy brain and the expectation of every model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.figures import brain
from gen3d.figures import names as wording
from gen3d.figures.blocks import Details, Figure, Section, Table, Text
from gen3d.figures.context import Context, page_section
from gen3d.latents.folder import ReconstructedFolder
from gen3d.maths.stats import bootstrap_interval

MAX_MODELS = 3
CUT_MM = (-24.0, -18.0, 12.0)  # through the left hippocampus (coronal, sagittal) and the basal ganglia (axial)
SHOWN = {
    "t1w": ("T1w intensity", "intensity difference (white matter = 1)", 0.4, 0.08),
    "log_jacobian": ("Local volume (log-Jacobian)", "log volume ratio", 0.6, 0.1),
}


@page_section("Reconstructions", "`gen3d reconstruct`", place=30, reads=ReconstructedFolder)
def section(context: Context) -> Section | None:
    """Scan, expectation and residual of a test control, and PSNR and SSIM by role."""
    folders = context.all(ReconstructedFolder)
    if not folders:
        return None
    blocks: list[Any] = [
        Text(
            "The expectation is the scan as the model reconstructs it for a healthy person. Only people that the model never saw "
            "are a fair test. A close reconstruction alone is not a merit: a model that copies a lesion does not find it."
        )
    ]
    key = typical_control(folders[0].errors)
    channels = list(dict.fromkeys(str(name) for name in folders[0].errors.get("channel", [])))
    for channel in channels or ["t1w"]:
        figure = _figure(context, key, channel) if key else None
        if figure is not None:
            first = channel == (channels or ["t1w"])[0]
            blocks.append(
                figure if first else Details(f"{SHOWN.get(channel, (channel,))[0]} of the same person", [figure])
            )
    rows = [row for reconstructed in folders for row in fidelity(reconstructed)]
    if rows:
        blocks.append(_table(rows))
    return Section("reconstruction", "Reconstructions", blocks, {"shown": key, "fidelity": rows})


def typical_control(metrics: pd.DataFrame) -> str:
    """The test control whose error is the median one: neither the best nor the worst is shown. "" without any."""
    tested = metrics[metrics["role"] == "test"]
    if not len(tested):
        return ""
    if "mse" not in tested.columns:
        return str(tested["key"].iloc[0])
    error = tested.groupby("key")["mse"].mean().sort_values(kind="stable")
    return str(error.index[(len(error) - 1) // 2])


def _figure(context: Context, key: str, channel: str) -> Figure | None:
    prepared = context.prepared
    if prepared is None or channel not in prepared.plan.channels or key not in set(prepared.manifest["key"]):
        return None
    shown = [
        (item.name, volume)
        for item in context.all(ReconstructedFolder)[:MAX_MODELS]
        if (volume := item.volume(key, channel)) is not None
    ]
    if not shown:
        return None
    scan, signed = prepared.volume(key, channel), channel != "t1w"
    title, units, limit, threshold = SHOWN.get(channel, (channel, channel, 0.5, 0.1))
    grey = context.anatomy(key)[0]
    cuts = brain.three_planes((CUT_MM[0], CUT_MM[1], CUT_MM[2]))

    def tiles(volume: NDArray[np.floating], as_map: bool) -> list[brain.Tile]:
        over = brain.Overlay(volume, limit, threshold) if as_map else None
        return [brain.Tile(cut, grey if as_map else volume, over) for cut in cuts]

    strips = [brain.Strip("Scan", tiles(scan, signed))]
    for name, expected in shown:
        strips.append(
            brain.Strip(
                f"{name}: expected (left), scan minus expected (right)",
                [*tiles(expected, signed), *tiles(scan - expected, True)],
            )
        )
    bar = brain.Overlay(scan, limit, threshold)
    png = brain.draw(strips, context.space, (bar, units))
    caption = (
        f"{title} of {key}, a held-out control with the median error: the scan, the expectation of each model, and scan "
        f"minus expectation. {brain.CONVENTION}"
    )
    alt = f"Scan, expectation and difference of {key} on three planes."
    return Figure(f"reconstruction_{channel}", alt, caption, png)


def fidelity(reconstructed: ReconstructedFolder) -> list[dict[str, Any]]:
    """Mean PSNR and SSIM per channel and role with intervals over people; people that the model saw have rows of their own."""
    metrics = reconstructed.errors
    if "psnr" not in metrics.columns or "ssim" not in metrics.columns:
        return []
    if "channel" not in metrics.columns:
        metrics = metrics.assign(channel="t1w")
    if "seen" not in metrics.columns:
        metrics = metrics.assign(seen=metrics["role"] == "train")
    rows = []
    order = list(wording.ROLES)
    for (channel, role, seen), part in metrics.groupby(["channel", "role", "seen"], sort=False):
        rows.append(
            {
                "model": reconstructed.name,
                "channel": str(channel),
                "role": str(role),
                "seen": bool(seen),
                "num_scans": len(part),
                "psnr_db": bootstrap_interval(part["psnr"]),
                "ssim": bootstrap_interval(part["ssim"]),
            }
        )
    return sorted(
        rows, key=lambda row: (row["channel"] != "t1w", order.index(row["role"]) if row["role"] in order else 9)
    )


def _table(rows: list[dict[str, Any]]) -> Table:
    cells = [
        [
            SHOWN.get(row["channel"], (row["channel"],))[0],
            wording.ROLES.get(row["role"], row["role"]) + (", seen in training" if row["seen"] else ""),
            row["model"],
            str(row["num_scans"]),
            wording.with_interval(row["psnr_db"]),
            wording.with_interval(row["ssim"], 3),
        ]
        for row in sorted(rows, key=lambda row: row["channel"] != "t1w")
    ]
    caption = (
        "Similarity of expectation and scan inside the brain mask, mean with 95 % interval over scans. Higher is "
        "closer."
    )
    return Table(
        caption,
        ["Channel", "Role", "Model", "Scans", "PSNR (dB) [95 %]", "SSIM [95 %]"],
        cells,
        "lllrrr",
        sortable=True,
    )
