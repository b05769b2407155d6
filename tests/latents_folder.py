"""Folders of latents written by hand, as `gen3d encode` leaves them: values and people are known to the test."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.cohort.latents_folder import write_latents as write
from gen3d.cohort.manifest import REQUIRED, scan_key
from gen3d.cohort.seen import SeenBy
from gen3d.core.artefact import digest
from gen3d.core.config import Verb
from gen3d.core.output_folder import begin


class Encoded(Verb):
    """Stands for the verb that encodes: only its record matters here."""


def cohort_table(num: int, **columns: Any) -> pd.DataFrame:
    """A cohort table of `num` people with one scan each; columns by name replace the defaults or come on top."""
    subjects = [f"p{index:04d}" for index in range(num)]
    frame = pd.DataFrame({"subject": columns.pop("subject", subjects)})
    frame["session"] = columns.pop("session", "1")
    defaults = {"site": "A", "age_years": np.nan, "sex": "", "diagnosis": "CN", "cdr": np.nan, "mmse": np.nan}
    for name, value in {**defaults, "role": "evaluation", **columns}.items():
        frame[name] = value
    keys = [scan_key(subject, session) for subject, session in zip(frame["subject"], frame["session"], strict=True)]
    if "key" not in frame.columns:
        frame["key"] = keys
    return frame


def write_latents(
    folder: Path,
    values: NDArray[np.floating],
    table: pd.DataFrame,
    shape: Sequence[int] | None = None,
    kind: str = "vae",
    run_key: str = "k",
    seen: dict[str, str] | Sequence[dict[str, str]] | None = None,
) -> Path:
    """Write a finished folder.

    Args:
        folder: where.
        values: latents [n, d], or [members, n, d] of a family.
        table: a row per scan; required columns that it lacks are filled in by `cohort_table`.
        shape: of one latent, (d,) if None.
        kind: of the model that is said to have made them.
        run_key: of that model's run folder.
        seen: hash of a subject -> what saw that person; one such dictionary per member for a family.

    Returns:
        The folder.
    """
    lacking = [name for name in REQUIRED if name not in table.columns]
    if lacking:
        table = cohort_table(len(table), **{str(name): table[name].to_numpy() for name in table.columns})
    array = np.asarray(values, dtype=np.float32)
    members = [seen or {}] * (array.shape[0] if array.ndim == 3 else 1) if isinstance(seen, dict | None) else list(seen)
    identity = {"values": digest(array.tolist()), "table": table.to_csv(), "run": run_key, "kind": kind}
    work = begin(Encoded(out=folder), "encode", {}, identity)
    record = {"shape": list(shape or array.shape[-1:]), "kind": kind, "run_key": run_key, "channels": ["t1w"]}
    write(folder, array, table, record, SeenBy(tuple(dict(people) for people in members)))
    work.finish({"num_scans": len(table), "num_dimensions": array.shape[-1]})
    return folder
