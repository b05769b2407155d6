"""Finished folders of one verb each, opened for reading: runs, maps, changes, latents, reconstructions, evaluations."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from numpy.typing import NDArray

from gen3d.cohort.manifest import is_control
from gen3d.core.artefact import Artefact
from gen3d.core.errors import UserError
from gen3d.imaging.volume import read_map

NULL = "null"  # the simulated condition in which nothing is planted
FEWEST_CONTROLS = 10  # for a range of controls
REGISTRATION_ALONE = "(registration alone)"
"""Beside the name of maps in a channel that no model made: their volume is the registration's, calibrated."""

BY_REGION = ("size", "contrast")
CHANNEL_ORDER = ("deformation", "residual", "structural", "size")
TEXT_COLUMNS = "key subject session session_1 session_2 site diagnosis role sex flags entry remark"
TEXT = dict.fromkeys(TEXT_COLUMNS.split(), str)
Row = dict[str, Any]


def records(frame: pd.DataFrame) -> list[Row]:
    """The rows of a table as dictionaries."""
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]


def read_table(path: Path) -> pd.DataFrame:
    """A tab-separated table with text ids; an empty cell of a text column is ""."""
    if not path.is_file():
        raise UserError(f"{path}: missing; run the verb that wrote this folder again.")
    if path.stat().st_size == len("\n"):  # a table without rows whose columns depend on its rows, see `write_table`
        return pd.DataFrame()
    try:
        frame = pd.read_csv(path, sep="\t", dtype=TEXT, na_values=["n/a", ""], keep_default_na=False)
    except (ValueError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: damaged ({reason}); run the verb that wrote this folder again.") from None
    for column in TEXT:
        if column in frame.columns:
            frame[column] = frame[column].astype(object).where(frame[column].notna(), "")
    return frame


def read_record(path: Path) -> dict[str, Any]:
    """A JSON object, or {} where the file is absent."""
    if not path.is_file():
        return {}
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise UserError(f"{path}: damaged (not JSON); run the verb that wrote this folder again.") from None
    return record if isinstance(record, dict) else {"rows": record}


@dataclass(frozen=True)
class Run:
    """A trained model: its settings, log and the record of whom it saw."""

    artefact: Artefact
    name: str

    @cached_property
    def config(self) -> dict[str, Any]:
        path = self.artefact.folder / "config.yaml"
        tree = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else self.artefact.config
        return tree if isinstance(tree, dict) else {}

    @cached_property
    def log(self) -> pd.DataFrame:
        """One row per logged step; a last line cut short by an interruption is left out."""
        path = self.artefact.folder / "log.jsonl"
        rows = []
        for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                continue
        return pd.DataFrame(rows)


@dataclass(frozen=True)
class Score:
    """One number per person: its channel, what it is made of (regions, voxels or distance), and where it stands."""

    channel: str
    kind: str
    column: str
    percentile_column: str


@dataclass(frozen=True)
class Maps:
    """Anomaly maps of one model, or of several that judged together.

    `learned` are the channels of the volumes that the model learned, None where its run cannot be read.
    """

    artefact: Artefact
    name: str
    learned: tuple[str, ...] | None = None

    def is_modelled(self, channel: str) -> bool:
        """Whether a channel is compared with the model's expectation: not those of whole regions, and not local volume if
        only T1w was learned."""
        if channel in BY_REGION:
            return False
        return channel != "deformation" or self.learned is None or "log_jacobian" in self.learned

    def title(self, channel: str) -> str:
        """The name of the maps in one channel: with a word on those that no model made."""
        return self.name if self.is_modelled(channel) else f"{self.name} {REGISTRATION_ALONE}"

    @cached_property
    def subjects(self) -> pd.DataFrame:
        return read_table(self.artefact.folder / "subjects.tsv")

    @cached_property
    def regions(self) -> pd.DataFrame:
        path = self.artefact.folder / "regions.tsv"
        columns = ["key", "channel", "region", "effect", "effect_percent", "z", "p", "p_conformal", "q"]
        return read_table(path) if path.is_file() else pd.DataFrame(columns=columns)

    @cached_property
    def calibration(self) -> dict[str, Any]:
        return read_record(self.artefact.folder / "calibration.json")

    @cached_property
    def channels(self) -> tuple[str, ...]:
        """Channels with a score, local volume first."""
        found = [column.removeprefix("score_") for column in self.subjects.columns if column.startswith("score_")]
        rank = {name: index for index, name in enumerate(CHANNEL_ORDER)}
        return tuple(sorted(found, key=lambda name: rank.get(name, len(rank))))

    @cached_property
    def scores(self) -> tuple[Score, ...]:
        """Every score that the table holds: of regions and voxels per channel, and the distance in latent space."""
        columns = self.subjects.columns
        wanted = [
            Score(name, kind, f"{prefix}score_{name}", f"{prefix}percentile_{name}")
            for name in self.channels
            for kind, prefix in (("regions", "region_"), ("voxels", ""))
        ]
        wanted.append(Score("latent", "distance", "latent_d", "percentile_latent"))
        return tuple(score for score in wanted if score.column in columns and self.subjects[score.column].notna().any())

    @property
    def headline_scores(self) -> tuple[Score, ...]:
        """One score per channel: regions for local volume, voxels for the others, and the latent distance."""
        found: dict[str, Score] = {}
        for score in self.scores:
            preferred = "regions" if score.channel == "deformation" else "voxels"
            if score.channel not in found or score.kind == preferred:
                found[score.channel] = score
        return tuple(found.values())

    @cached_property
    def clusters(self) -> pd.DataFrame:
        path = self.artefact.folder / "clusters.tsv"
        columns = ["key", "channel", "region", "peak_z", "volume_ml", "x_mm", "y_mm", "z_mm", "p_cluster"]
        found = read_table(path) if path.is_file() else pd.DataFrame()
        return found.reindex(columns=columns)

    @property
    def cluster_z(self) -> float:
        """|z| beyond which neighbouring voxels are a cluster."""
        return float(self.artefact.config.get("cluster_z", 3.1))

    @cached_property
    def groups(self) -> tuple[str, ...]:
        """Diagnoses of the evaluated people, the largest first, the null condition last."""
        counts = self.evaluated["diagnosis"].astype(str).value_counts()
        return tuple(sorted(counts.index, key=lambda name: (name == NULL, -counts[name], name)))

    def row(self, key: str) -> pd.Series:
        """A person's row of subjects.tsv, named by its key."""
        row = self.subjects[self.subjects["key"] == key].iloc[0]
        return row.rename(key)

    def path(self, key: str, channel: str, kind: str = "zmap") -> Path:
        return self.artefact.folder / "maps" / f"{key}_desc-{channel}_{kind}.nii.gz"

    def z(self, key: str, channel: str) -> NDArray[np.float32] | None:
        """z map [X, Y, Z], or None where the person has none."""
        path = self.path(key, channel)
        return read_map(path) if path.is_file() else None

    def significant(self, key: str, channel: str) -> NDArray[np.bool_] | None:
        """Voxels that survive FDR [X, Y, Z], or None."""
        path = self.path(key, channel, "significant")
        return read_map(path) != 0 if path.is_file() else None

    @cached_property
    def controls(self) -> pd.Series:
        return is_control(self.subjects)

    @cached_property
    def control_effects(self) -> pd.DataFrame:
        """Region effects of controls of the calibration and test set, with their `subject`."""
        people = self.subjects[self.controls & self.subjects["role"].isin(["train", "calibration", "test"])]
        return self.regions[self.regions["effect"].notna()].merge(people[["key", "subject"]], on="key")

    def control_range(self, subject: str, channel: str, region: str) -> tuple[float, float] | None:
        """5th and 95th percentile of the effect in controls other than this person; None with fewer than 10."""
        frame = self.control_effects
        chosen = (frame["channel"] == channel) & (frame["region"] == region) & (frame["subject"] != subject)
        values = frame.loc[chosen, "effect"].to_numpy(float)
        if len(values) < FEWEST_CONTROLS:
            return None
        low, high = np.percentile(values, [5, 95])
        return float(low), float(high)

    @cached_property
    def reference(self) -> pd.DataFrame:
        """Controls that neither model nor calibration saw (role test)."""
        frame = self.subjects
        return frame[(frame["role"] == "test") & self.controls]

    @property
    def evaluated(self) -> pd.DataFrame:
        """Everyone who is not a control used for training, calibration or test."""
        return self.subjects[self.subjects["role"] == "evaluation"]


@dataclass(frozen=True)
class Latents:
    """Latent vectors [n, d] with one table row each; of a family, whose members have spaces of their own, the first member's."""

    artefact: Artefact
    name: str

    @cached_property
    def values(self) -> NDArray[np.float32]:
        path = self.artefact.folder / "latents.npy"
        try:
            values: NDArray[np.float32] = np.load(path, allow_pickle=False)
        except (OSError, ValueError):
            raise UserError(f"{path}: missing or damaged; run `gen3d encode` again.") from None
        return values[0] if values.ndim == 3 else values.reshape(len(values), -1)

    @property
    def words(self) -> str:
        """`64 dimensions`, and of which member where the members of a family have spaces of their own."""
        stored: NDArray[np.float32] = np.load(self.artefact.folder / "latents.npy", mmap_mode="r")
        member = ", the first member of a cross-fitted family" if stored.ndim == 3 else ""
        return f"{self.values.shape[1]} dimensions{member}"

    @cached_property
    def table(self) -> pd.DataFrame:
        return read_table(self.artefact.folder / "latents.tsv")


@dataclass(frozen=True)
class Reconstructed:
    """What a model expects of every scan."""

    artefact: Artefact
    name: str

    @cached_property
    def metrics(self) -> pd.DataFrame:
        path = self.artefact.folder / "metrics.tsv"
        return read_table(path) if path.is_file() else pd.DataFrame(columns=["key", "role"])

    def volume(self, key: str, channel: str) -> NDArray[np.float32] | None:
        """The expectation [X, Y, Z], or None where the person has none."""
        for suffix in (".nii", ".nii.gz"):
            path = self.artefact.folder / "volumes" / f"{key}_{channel}{suffix}"
            if path.is_file():
                return read_map(path)
        return None


@dataclass(frozen=True)
class Change:
    """Two scans of one person compared, and how the two scans of controls agree."""

    artefact: Artefact
    name: str

    @cached_property
    def table(self) -> pd.DataFrame:
        """change.tsv: a row per pair of scans, channel and region."""
        return read_table(self.artefact.folder / "change.tsv")

    @cached_property
    def retest(self) -> pd.DataFrame:
        """retest.tsv: a row per channel and region, none where too few controls were scanned twice."""
        return read_table(self.artefact.folder / "retest.tsv")

    @property
    def q(self) -> float:
        """The false discovery rate that was asked for."""
        return float(self.artefact.config.get("q", 0.05))


@dataclass(frozen=True)
class Evaluation:
    """Maps measured against planted truth: metrics.json and the tables beside it."""

    artefact: Artefact
    name: str

    @cached_property
    def metrics(self) -> dict[str, Any]:
        return read_record(self.artefact.folder / "metrics.json")

    @cached_property
    def tables(self) -> dict[str, pd.DataFrame]:
        return {path.stem: read_table(path) for path in sorted(self.artefact.folder.glob("*.tsv"))}


@dataclass(frozen=True)
class Quality:
    """Synthetic scans compared with real people: metrics.json and the pictures beside it."""

    artefact: Artefact
    name: str

    @cached_property
    def metrics(self) -> dict[str, Any]:
        return read_record(self.artefact.folder / "metrics.json")

    def rows(self, table: str) -> list[Row]:
        """The rows of a table; a missing value is None."""
        found: list[Row] = self.metrics.get("tables", {}).get(table, [])
        return found

    def picture(self, name: str) -> bytes:
        """A PNG of the folder, b"" where it has none."""
        path = self.artefact.folder / "figures" / f"{name}.png"
        return path.read_bytes() if path.is_file() else b""

    @property
    def shuffled_key(self) -> list[Row]:
        """number and kind of every scan in the picture of scans in random order."""
        return records(read_table(self.artefact.folder / "figures" / "shuffled_key.tsv"))


@dataclass(frozen=True)
class Synthetic:
    """A dataset of synthetic scans: its table, its picture, where it comes from and its audit."""

    artefact: Artefact
    name: str

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row per scan."""
        return read_table(self.artefact.folder / "manifest.tsv")

    @property
    def picture(self) -> bytes:
        """PNG of the first scans."""
        path = self.artefact.folder / "figures" / "samples.png"
        try:
            return path.read_bytes()
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror}); run `gen3d sample` again.") from None

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """How the scans were made."""
        return read_record(self.artefact.folder / "provenance.json")

    @cached_property
    def audit(self) -> dict[str, Any]:
        """What the audit for copies found."""
        return read_record(self.artefact.folder / "audit.json")
