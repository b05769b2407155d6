"""What every verb wrote, as figures that can be compared: the guard of a change that must not change any result.

    python -m tests.end_to_end.golden make FOLDER          run every debug config below FOLDER
    python -m tests.end_to_end.golden keep FOLDER FILE     write all its figures, with a digest of every array
    python -m tests.end_to_end.golden compare FOLDER FILE  list every figure that differs; exit code 1 if any does
    python -m tests.end_to_end.golden summary FOLDER FILE  write a few figures per folder, as `golden.json` keeps them

On one machine and one version of the libraries all figures of two runs are equal to the last digit. Another processor may
round differently, which training carries on, so the test of the suite compares the summary, within a tolerance.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
from safetensors.numpy import load_file

Figures = dict[str, dict[str, Any]]

LEFT_OUT = ("artefact.json", "dataset_description.json", "logs", "checkpoints", "events.out", "log.jsonl", ".lock")
"""Names of files and folders that hold times, versions or paths."""
TIMES = ("second", "time", "_s", "memory", "date", "when", "version", "folder", "path", "key", "sha")
"""Parts of the names of figures that differ from run to run."""


def figures(folder: Path) -> Figures:
    """Figures per file below `folder`: tables by column, arrays by moments and digest, JSON by its numbers."""
    kept: Figures = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_file() and not any(part in name for part in LEFT_OUT) and (found := _of_file(path)):
            kept[name] = found
    return kept


def _of_file(path: Path) -> dict[str, Any]:
    if path.stat().st_size < 2:
        return {"bytes": path.stat().st_size}
    if path.suffix == ".tsv":
        return _of_table(pd.read_csv(path, sep="\t", na_values="n/a"))
    if path.suffix == ".json":
        return dict(_numbers(json.loads(path.read_text(encoding="utf-8"))))
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            return {k: v for name in sorted(arrays.files) for k, v in _of_array(name, arrays[name]).items()}
    if path.suffix == ".npy":
        return _of_array("array", np.load(path, mmap_mode="r"))
    if path.suffix == ".safetensors":
        return {k: v for name, array in sorted(load_file(path).items()) for k, v in _of_array(name, array).items()}
    if path.name.endswith((".nii", ".nii.gz")):
        return _of_array("volume", np.asarray(nib.load(path).dataobj))
    return {}


def _of_table(frame: pd.DataFrame) -> dict[str, Any]:
    kept: dict[str, Any] = {"rows": len(frame)}
    for column in frame.columns:
        if any(part in str(column) for part in TIMES if part != "key"):
            continue
        values = frame[column]
        if pd.api.types.is_numeric_dtype(values) and values.notna().any():
            kept[f"{column}.mean"] = float(values.astype(float).mean())
            kept[f"{column}.sum_abs"] = float(values.astype(float).abs().sum())
        kept[f"{column}.missing"] = int(values.isna().sum())
    return kept


def _of_array(name: str, array: Any) -> dict[str, Any]:
    values = np.ascontiguousarray(array)
    if values.dtype.kind not in "biuf":
        return {}  # words
    wide = values.astype(np.float64)
    return {
        f"{name}.shape": list(values.shape),
        f"{name}.mean": float(wide.mean()) if wide.size else 0.0,
        f"{name}.rms": float(np.sqrt((wide**2).mean())) if wide.size else 0.0,
        f"{name}.digest": hashlib.sha256(values.tobytes()).hexdigest()[:12],
    }


def _numbers(tree: Any, where: str = "") -> Iterator[tuple[str, float]]:
    if isinstance(tree, dict):
        for key, value in tree.items():
            if not any(part in str(key) for part in TIMES):
                yield from _numbers(value, f"{where}.{key}" if where else str(key))
    elif isinstance(tree, list):
        for position, value in enumerate(tree):
            yield from _numbers(value, f"{where}.{position}")
    elif isinstance(tree, (int, float)) and not isinstance(tree, bool) and math.isfinite(tree):
        yield where, float(tree)


OF_ONE_PROCESSOR = (
    *(
        ("debug", name)
        for name in ("classifier", "fusion", "explained", "exported", "transition", "stages", "vae_visits", "flow")
    ),
    ("debug", "strata", "map.npz"),
    ("debug", "strata", "structure.tsv"),
    ("debug", "head", "differences.tsv"),
    ("debug", "predictions_fusion"),
    ("debug", "head_genes"),
)
"""What the rounding of another processor changes, left out of the summary. Batches of four volumes are normalised in the debug
classifier and the debug chain, which makes 5 to 15 % of it within eight steps, and the flow stands on a network of a few steps;
UMAP turns 30 people about (factor 3 between two runs whose latents differ by 0.0001), and a difference of two models of 20 people
may or may not be defined. Whole figures, `compare`, are kept of them too."""

MOST_GONE = 0.002
"""Share of a group's figures that may be undefined on another processor."""


def summary(found: Figures) -> Figures:
    """A few figures per folder and kind of file, small enough to keep: how many figures, and the mean of their sizes."""
    groups: dict[str, dict[str, list[float]]] = {}
    for name, values in found.items():
        path = Path(name)
        if any(path.parts[: len(place)] == place for place in OF_ONE_PROCESSOR):
            continue
        kind = path.name if path.suffix in (".tsv", ".json") else f"*{''.join(path.suffixes[-2:])}"
        for key, value in values.items():
            if isinstance(value, (int, float)) and math.isfinite(value):
                group = groups.setdefault(str(path.parent / kind), {})
                group.setdefault(key.rsplit(".", 1)[-1] if path.suffix == ".tsv" else "figures", []).append(abs(value))
    return {
        name: {key: {"n": len(sizes), "mean": float(f"{sum(sizes) / len(sizes):.6g}")} for key, sizes in group.items()}
        for name, group in groups.items()
    }


def differences(found: Figures, kept: Figures, relative: float = 0.0) -> list[str]:
    """A line for each figure that is missing, new or further away than `relative`; 0 also compares the digests."""
    lines = [f"{name}: not written" for name in sorted(set(kept) - set(found))]
    lines += [f"{name}: new" for name in sorted(set(found) - set(kept))]
    for name in sorted(set(found) & set(kept)):
        for key in sorted(set(found[name]) | set(kept[name])):
            if key.endswith(".digest") and relative:
                continue
            now, then = found[name].get(key), kept[name].get(key)
            if not _equal(now, then, relative):
                lines.append(f"{name}: {key} is {now}, was {then}")
    return lines


def _equal(now: Any, then: Any, relative: float) -> bool:
    if isinstance(now, dict) and isinstance(then, dict):
        return now.keys() == then.keys() and all(_equal(now[key], then[key], relative) for key in now)
    if isinstance(now, float) and isinstance(then, float):
        if math.isnan(now) or math.isnan(then):
            return math.isnan(now) and math.isnan(then)
        return math.isclose(now, then, rel_tol=relative, abs_tol=relative) if relative else now == then
    if relative and type(now) is type(then) is int:
        return math.isclose(now, then, rel_tol=MOST_GONE)
    return bool(now == then)


def make(folder: Path) -> None:
    """Run `prepare` on a phantom and every debug config in order, below `folder`."""
    from gen3d.cli import main
    from tests.end_to_end.debug_configs import ORDER, command, lay_out

    lay_out(folder)
    os.chdir(folder)
    for name in ORDER:
        if main(command(name)) != 0:
            raise SystemExit(f"{name} failed")


if __name__ == "__main__":
    task, where = sys.argv[1], Path(sys.argv[2]).resolve()
    if task == "make":
        make(where)
    elif task in ("keep", "summary"):
        kept = figures(where) if task == "keep" else summary(figures(where))
        Path(sys.argv[3]).write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    else:
        lines = differences(figures(where), json.loads(Path(sys.argv[3]).read_text(encoding="utf-8")))
        print("\n".join(lines[:200]) or "equal")
        raise SystemExit(bool(lines))
