"""Everything about one scan: its maps on disk, and its rows of every table."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from gen3d.cohort.folder import Prepared, open_prepared
from gen3d.cohort.scores_folder import RunScores, read_scores
from gen3d.core.errors import UserError
from gen3d.core.pool import KeptRows
from gen3d.core.tables import Row, plain_row
from gen3d.explain.enrichment import RoundBrain, by_region, enrichment, normalised
from gen3d.explain.folder import map_path
from gen3d.explain.gradcam import chosen_layer
from gen3d.explain.judges import LABELS, spearman
from gen3d.explain.mapping import Layer, Mapping, mean_map
from gen3d.explain.occlusion import SoftRegions
from gen3d.explain.people import ScanToExplain
from gen3d.explain.question import Answering, AskedScore, Seeing, View, question_of
from gen3d.explain.randomising import cascade
from gen3d.explain.settings import METHODS, ExplainingVerb
from gen3d.explain.thresholds import RULES, kept_ml, threshold
from gen3d.explain.truth import EDGES, PlantedTruth, against_truth, edges, region_agreement
from gen3d.imaging.similarity import smooth_inside
from gen3d.imaging.volume import write_nifti
from gen3d.maths.stats import auprc
from gen3d.models.run import Run, load_run, scan_seed
from gen3d.nets.classifiers.base import StagedNetwork
from gen3d.nets.device import device_of

CONTROLS = "controls.npy"
"""Working file: the sum of the controls' volumes [C, X, Y, Z]."""
ROWS = ".rows"
SMOOTHING_VOXELS = 2.0
"""FWHM of the smoothing of both maps before they are compared with each other: at single voxels noise decides."""

TABLES_BY_SCAN = ("regions", "enrichment", "truth", "randomised", "faithfulness", "thresholds", "slices")


@dataclass(frozen=True)
class Explaining:
    """What the explanation of every scan needs; sent to each process once."""

    verb: ExplainingVerb
    controls: tuple[tuple[str, str], ...]
    """Person and key of each scan in the sum of controls."""


@dataclass(frozen=True)
class Randomised:
    """A classifier with another network in it."""

    model: Seeing
    network: StagedNetwork

    @property
    def window(self) -> View:
        """As of the classifier."""
        return self.model.window

    def view(self, volumes: Tensor) -> Tensor:
        """As of the classifier."""
        return self.model.view(volumes)


@dataclass(frozen=True)
class Opened:
    """The folders and what follows from them alone."""

    verb: ExplainingVerb
    prepared: Prepared
    run: Run
    scores: RunScores
    truth: PlantedTruth

    @property
    def question(self) -> AskedScore:
        """What is explained."""
        return question_of(self.scores.target, self.verb.answer)

    def member(self, index: int) -> Any:
        """A member of the run: a classifier."""
        return self.run.member(index)

    @cached_property
    def mask(self) -> NDArray[np.bool_]:
        """The part of the brain that the network sees [X, Y, Z]; a map can be nowhere else."""
        window = self.member(self.scores.of()[0].index).window
        seen = np.zeros_like(self.prepared.mask)
        seen[
            tuple(slice(max(start, 0), start + size) for start, size in zip(window.start, window.size, strict=True))
        ] = True
        return seen & self.prepared.mask

    @cached_property
    def regions(self) -> SoftRegions:
        """Regions of that part."""
        return SoftRegions(self.prepared.regions, self.mask, self.verb.edge_mm / self.prepared.plan.spacing_mm)

    @cached_property
    def layer(self) -> Layer | None:
        """The layer of Grad-CAM; None where it is not asked for, or nobody asked and the network has no map.

        Raises:
            UserError: it is asked for and there is none.
        """
        asked = self.verb.methods is not None or bool(self.verb.layer)
        if self.verb.methods is not None and "grad_cam" not in self.verb.methods:
            return None
        model = self.member(self.scores.of()[0].index)
        try:
            return Layer(*chosen_layer(model.network, len(self.run.channels), model.window.size, self.verb.layer))
        except UserError:
            if asked:
                raise
            return None

    @cached_property
    def methods(self) -> tuple[str, ...]:
        """The methods asked for, or all that the network allows."""
        every = self.verb.methods or METHODS
        return tuple(name for name in every if name != "grad_cam" or self.layer is not None)

    @cached_property
    def named(self) -> dict[str, NDArray[np.bool_]]:
        """The regions whose enrichment is tested, [X, Y, Z] each; both sides together where no side is named.

        Raises:
            UserError: no such region, or none of its voxels among those that the network sees.
        """
        table, found = self.prepared.region_table, {}
        names = table["name"].astype(str).str.lower()
        for name in self.verb.regions:
            own = names.eq(name.lower()) | names.isin([f"left {name.lower()}", f"right {name.lower()}"])
            if not own.any():
                near = difflib.get_close_matches(name.lower(), names.tolist(), n=1)
                hint = f"the nearest name is {near[0]}" if near else f"they are {', '.join(names)}"
                raise UserError(f"regions: {self.prepared.folders[0]} has no region {name}; {hint}.")
            found[name] = np.isin(self.prepared.regions, table.loc[own, "label"].tolist()) & self.mask
            if not found[name].any():
                raise UserError(f"regions: no voxel of {name} lies in what the network sees; name other regions.")
        return found

    @cached_property
    def brain(self) -> RoundBrain:
        """Turns inside the part of the brain that the network sees."""
        return RoundBrain(self.mask)


@lru_cache(maxsize=1)
def opened(verb: ExplainingVerb) -> Opened:
    """The folders, opened once in each process.

    Raises:
        UserError: not a run of a classifier, or scans that do not fit it.
    """
    scores = read_scores(verb.run_folder)
    prepared = open_prepared(verb.prepared)
    run = load_run(verb.run_folder, str(device_of(verb.device, 0, "device")))
    if "gen3d explain" not in run.model_config.used_with:
        raise UserError(
            f"{verb.run_folder}: a {run.kind} network does not read scans, so there is no map of where it looks; use it with "
            f"{run.model_config.used_with}, and read its attention.json."
        )
    run.require(prepared)
    return Opened(verb, prepared, run, scores, PlantedTruth(prepared.folders, verb.changed_log_jacobian))


def explain_scans(job: Explaining, tasks: list[ScanToExplain]) -> list[dict[str, Any]]:
    """The rows of scans by table; each is kept when its maps are on the disk."""
    kept, rows = KeptRows(job.verb.out / ROWS), []
    for task in tasks:
        tables = _ScanTables(job, task, opened(job.verb)).all()
        row = {name: [plain_row(entry) for entry in table] for name, table in tables.items()}
        kept.keep(task.key, row)
        rows.append(row)
    return rows


@dataclass(frozen=True)
class _ScanTables:
    """Makes the maps and rows of one scan."""

    job: Explaining
    task: ScanToExplain
    opened: Opened

    @property
    def verb(self) -> ExplainingVerb:
        return self.job.verb

    @cached_property
    def seed(self) -> int:
        return scan_seed(self.verb.seed, self.task.key)

    def _generator(self, *what: str) -> np.random.Generator:
        """Numbers of one purpose, the same whatever else is done."""
        return np.random.default_rng([self.seed, *(ord(letter) for letter in "/".join(what))])

    @cached_property
    def volume(self) -> Tensor:
        read = self.opened.prepared.load([self.task.key], self.opened.run.channels)[0]
        return torch.from_numpy(read).to(self.opened.run.device)

    @cached_property
    def controls(self) -> Tensor:
        """Mean of the controls' scans but the person's own."""
        total: NDArray[np.float64] = np.load(self.verb.out / CONTROLS)
        own = [key for subject, key in self.job.controls if subject == self.task.subject]
        for key in own:
            total -= self.opened.prepared.load([key], self.opened.run.channels)[0]
        mean = total / (len(self.job.controls) - len(own))
        return torch.from_numpy(mean.astype(np.float32)).to(self.opened.run.device)

    def mapping(self, model: Seeing) -> Mapping:
        answering = Answering(model, self.opened.question, self.task.age_years)
        return Mapping(
            answering, self.volume, self.controls, self.opened.regions, self.opened.layer, self.verb, self.seed
        )

    @cached_property
    def mappings(self) -> list[Mapping]:
        return [self.mapping(self.opened.member(index)) for index in self.task.members]

    @cached_property
    def maps(self) -> dict[str, NDArray[np.float32]]:
        """The mean map over members by method; written when made."""
        found: dict[str, NDArray[np.float32]] = {}
        for method in self.opened.methods:
            found[method] = mean_map([mapping.by(method) for mapping in self.mappings])
            write_nifti(map_path(self.verb.out, self.task.key, method), found[method], self.opened.prepared.plan.matrix)
        return found

    def all(self) -> dict[str, list[Row]]:
        tables: dict[str, list[Row]] = {name: [] for name in ("scan", *TABLES_BY_SCAN)}
        tables["scan"] = [self._scan()]
        for method, volume in self.maps.items():
            tables["regions"] += self._labelled(method, self._regions(volume))
            if self.task.retest:
                continue
            tables["enrichment"] += self._labelled(method, self._enrichment(method, volume))
            tables["thresholds"] += self._labelled(method, self._thresholds(volume))
            tables["slices"] += self._labelled(method, self._slices(volume))
            tables["truth"] += self._labelled(method, self._truth(method, volume))
            if self.task.judged:
                tables["randomised"] += self._labelled(method, self._randomised(method))
                tables["faithfulness"] += self._labelled(method, self._faithfulness(method, volume))
        if not self.task.retest and self.opened.truth.condition(self.task.key) is not None:
            drawn = edges(self.volume.cpu().numpy(), self.opened.mask)
            tables["truth"] += self._labelled(EDGES, self._truth(EDGES, drawn))
        return tables

    def _labelled(self, method: str, rows: Sequence[Row]) -> list[Row]:
        names = {"key": self.task.key, "subject": self.task.subject, "group": self.task.group, "method": method}
        return [names | row for row in rows]

    def _scan(self) -> Row:
        ends = [mapping.replacing.ends for mapping in self.mappings]
        row: Row = {name: getattr(self.task, name) for name in ("key", "subject", "session", "label", "group")}
        row |= {"members": ",".join(map(str, self.task.members)), "age_years": self.task.age_years}
        row |= {"retest": self.task.retest, "shown": self.task.shown, "judged": self.task.judged}
        row |= {
            "answer": float(np.mean([end[0] for end in ends])),
            "answer_controls": float(np.mean([end[1] for end in ends])),
        }
        if "integrated_gradients" in self.opened.methods:
            row["incomplete"] = float(np.mean([mapping.incomplete for mapping in self.mappings]))
        return row

    def _regions(self, volume: NDArray[np.float32]) -> list[Row]:
        table = self.opened.prepared.region_table
        values = by_region(volume, self.opened.mask, self.opened.prepared.regions, int(table["label"].max()))
        pairs = table[["label", "name"]].itertuples(index=False)
        return [{"region": str(name), "enrichment": float(values[int(label)])} for label, name in pairs]

    def _enrichment(self, method: str, volume: NDArray[np.float32]) -> list[Row]:
        rows = []
        for name, region in self.opened.named.items():
            generator = self._generator("turns", method, name)
            found = enrichment(volume, region, self.opened.brain, self.verb.rotations, generator)
            rows.append(
                {"region": name, "enrichment": found.value}
                | {part: getattr(found, part) for part in ("null_mean", "null_high", "p", "rank_accuracy", "auroc")}
            )
        return rows

    def _thresholds(self, volume: NDArray[np.float32]) -> list[Row]:
        strength, spacing = normalised(volume, self.opened.mask)[self.opened.mask], self.opened.prepared.plan.spacing_mm
        whole = float(np.abs(volume, dtype=np.float64).sum())
        inside = float(np.abs(volume[self.opened.mask], dtype=np.float64).sum())
        rows: list[Row] = []
        for rule in RULES:
            limit = threshold(strength, rule, self.verb.top_percent, self.verb.sd_above)
            rows.append({"rule": rule, "threshold": limit, "volume_ml": kept_ml(strength, limit, spacing)})
            rows[-1]["outside_brain"] = 1 - inside / whole if whole > 0 else float("nan")
        return rows

    def _slices(self, volume: NDArray[np.float32]) -> list[Row]:
        """Share of the map's mass in every coronal slice."""
        strength = np.where(self.opened.mask, np.abs(volume), 0.0).astype(np.float64)
        mass, matrix = strength.sum(axis=(0, 2)), self.opened.prepared.plan.matrix
        total = mass.sum() or 1.0
        return [
            {"y_mm": float(matrix[1, 1] * place + matrix[1, 3]), "share": float(mass[place] / total)}
            for place in np.flatnonzero(self.opened.mask.any(axis=(0, 2)))
        ]

    @cached_property
    def _changed(self) -> NDArray[np.bool_] | None:
        """Voxels that truly differ and that the network sees; None where there are none."""
        changed = self.opened.truth.changed(self.task.key, self.opened.run.channels)
        return changed if changed is not None and (changed & self.opened.mask).any() else None

    def _truth(self, method: str, volume: NDArray[np.float32]) -> list[Row]:
        changed = self._changed
        if changed is None:
            return []
        table = self.opened.prepared.region_table
        row = against_truth(volume, changed, self.opened.brain, self._generator("truth", method))
        percent = self.opened.truth.percent_change(self.task.key, table["name"].astype(str).tolist())
        agree = region_agreement(volume, self.opened.mask, self.opened.prepared.regions, table, percent)
        return [{"condition": self.opened.truth.condition(self.task.key)} | row | {"regions_spearman": agree}]

    def _randomised(self, method: str) -> list[Row]:
        """Likeness of the map with that of networks whose weights are random, and of networks with permuted labels."""
        first, rows = self.mappings[0], []
        own = self._smoothed(self.maps[method] if len(self.mappings) == 1 else first.by(method))
        for step, network in cascade(first.answering.model.network, self.seed):
            other = self.mapping(Randomised(first.answering.model, network)).by(method)
            rows.append(self._alike(step, own, other))
        for index in self.task.permuted[:1]:
            other = self.mapping(self.opened.member(index)).by(method)
            rows.append(self._alike(LABELS, own, other))
        return rows

    def _smoothed(self, volume: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.stack(
            [
                smooth_inside(values, self.opened.mask, SMOOTHING_VOXELS)[self.opened.mask]
                for values in (np.abs(volume), volume)
            ]
        )

    def _alike(self, step: str, own: NDArray[np.float32], other: NDArray[np.float32]) -> Row:
        """Correlations of strength and of signed values with another network's map, and how well that one finds the truth."""
        smooth, changed = self._smoothed(other), self._changed
        found = (
            auprc(np.abs(other[self.opened.mask]), changed[self.opened.mask]) if changed is not None else float("nan")
        )
        correlations = {"spearman": spearman(own[0], smooth[0]), "spearman_signed": spearman(own[1], smooth[1])}
        return {"step": step} | correlations | {"auprc": found}

    def _faithfulness(self, method: str, volume: NDArray[np.float32]) -> list[Row]:
        first = self.mappings[0]
        deletion, insertion = first.replacing.curves(first.orders(volume, method))
        floor = self._random_orders
        row = {"deletion": deletion, "deletion_random": floor[0], "insertion": insertion, "insertion_random": floor[1]}
        return [row]

    @cached_property
    def _random_orders(self) -> tuple[float, float]:
        first, generator = self.mappings[0], self._generator("orders")
        labels = first.regions.present
        areas = [first.replacing.curves(generator.permutation(labels).tolist()) for _ in range(self.verb.orders)]
        mean = np.mean(areas, axis=0)
        return float(mean[0]), float(mean[1])


def frame_of(rows: Sequence[dict[str, Any]], table: str) -> pd.DataFrame:
    """A table of all scans, in the order of the scans."""
    return pd.DataFrame([entry for row in rows for entry in row[table]])
