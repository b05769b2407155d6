"""Forecast images against the later scan, always beside copying the scan forward."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.cohort.channels import DATA_RANGE, T1W
from gen3d.core.memory import WITH_SCANS, announce_memory
from gen3d.core.progress import track
from gen3d.core.tables import Row
from gen3d.evaluate.forecasts.opening import Forecasts, LaterVisits
from gen3d.forecast.folder import volume_path
from gen3d.imaging.similarity import mse, psnr, ssim
from gen3d.imaging.volume import read_stored
from gen3d.maths.stats import correlation

IMAGE_COLUMNS = (
    "model", "key", "key_later", "subject", "years", "forecast_years", "mse", "mse_copy", "difference_r", "ssim", "ssim_copy",
    "psnr", "psnr_copy", "rank", "rank_copy", "num_candidates",
)  # fmt: skip

Vectors = NDArray[np.float32]


class LaterScans:
    """The later scan of everybody [people, V] as unit vectors, among which a forecast looks for its own."""

    def __init__(self, truth: LaterVisits, pairs: pd.DataFrame) -> None:
        last = pairs.sort_values("years", kind="stable").drop_duplicates("subject", keep="last")
        self.subjects = last["subject"].astype(str).tolist()
        self.prepared, self.mask = truth.prepared, truth.prepared.mask
        size = 4 * len(self.subjects) * int(self.mask.sum())
        announce_memory(f"{len(self.subjects)} later scans", size, "evaluate fewer people at once", WITH_SCANS)
        self.vectors = np.empty((len(self.subjects), int(self.mask.sum())), dtype=np.float32)
        for place, key in enumerate(last["key_later"].astype(str)):
            self.vectors[place] = unit(self.prepared.volume(key, T1W)[self.mask])

    def rank(self, image: Vectors, own: Vectors, subject: str) -> int:
        """Place of the own later scan among those of all people by correlation with an image [V]; 1 is the most alike."""
        vector = unit(image)
        others = self.vectors @ vector
        others = others[[name != subject for name in self.subjects]]
        return 1 + int(np.sum(others >= float(unit(own) @ vector)))


def unit(values: NDArray[np.floating]) -> Vectors:
    """Values [V] about their mean, of length 1: inner products are correlations."""
    centred = np.asarray(values, dtype=np.float64) - float(np.mean(values))
    return np.asarray(centred / max(float(np.linalg.norm(centred)), 1e-12), dtype=np.float32)


def image_rows(forecasts: Forecasts, truth: LaterVisits, tolerance_years: float) -> pd.DataFrame:
    """One row per model with volumes and pair whose visit is within `tolerance_years` of a forecast year; IMAGE_COLUMNS.

    mse: mean squared difference to the later scan inside the brain, which is that of the two difference images to the scan;
    mse_copy: that of the scan itself. difference_r: correlation over voxels of the forecast and the true difference image.
    rank: of the own later scan among those of all people. ssim, psnr: beside those of the scan itself, as a high value is that
    of one person twice.
    """
    jobs = [
        (str(model), pair, row)
        for model, scans in forecasts.scans.groupby("model", sort=False)
        for pair, row in _nearest(forecasts.pairs, scans, tolerance_years)
        if volume_path(forecasts.artefact.folder, str(row["stem"]), T1W).is_file()
    ]
    if not jobs:
        return pd.DataFrame(columns=list(IMAGE_COLUMNS))
    later, copies = LaterScans(truth, forecasts.pairs), dict[tuple[str, str], Row]()
    rows = []
    for model, pair, scan in track(jobs, f"{forecasts.name}: forecast images", len(jobs)):
        keys = (str(pair["key"]), str(pair["key_later"]))
        before, after = (truth.prepared.volume(key, T1W) for key in keys)
        if keys not in copies:
            copies[keys] = _compared(before, before, after, str(pair["subject"]), later)
        path = volume_path(forecasts.artefact.folder, str(scan["stem"]), T1W)
        own, copy = _compared(read_stored(path), before, after, str(pair["subject"]), later), copies[keys]
        label = {"model": model, "key": keys[0], "key_later": keys[1], "subject": str(pair["subject"])}
        times = {"years": float(pair["years"]), "forecast_years": float(scan["years"])}
        both = {f"{name}_copy": copy[name] for name in ("mse", "ssim", "psnr", "rank")}
        rows.append(label | times | own | both | {"num_candidates": len(later.subjects)})
    return pd.DataFrame(rows)[list(IMAGE_COLUMNS)]


def _nearest(pairs: pd.DataFrame, scans: pd.DataFrame, tolerance_years: float) -> list[tuple[Row, Row]]:
    """Pairs with the forecast of the scan whose year is nearest to the visit, if near enough."""
    found: list[tuple[Row, Row]] = []
    by_key = {str(key): rows.to_dict("records") for key, rows in scans.groupby("key", sort=False)}
    for pair in pairs.to_dict("records"):
        rows = by_key.get(str(pair["key"]), [])
        if not rows:
            continue
        gaps = [abs(float(row["years"]) - float(pair["years"])) for row in rows]
        nearest = rows[int(np.argmin(gaps))]
        if min(gaps) <= tolerance_years:
            found.append(({str(k): v for k, v in pair.items()}, {str(k): v for k, v in nearest.items()}))
    return found


def _compared(image: Vectors, before: Vectors, after: Vectors, subject: str, later: LaterScans) -> Row:
    mask = later.mask
    changed = image[mask] - before[mask]
    return {
        "mse": mse(image, after, mask),
        "difference_r": correlation(changed, after[mask] - before[mask]).value,
        "ssim": ssim(image, after, DATA_RANGE, mask),
        "psnr": psnr(image, after, DATA_RANGE, mask),
        "rank": later.rank(image[mask], after[mask], subject),
    }
