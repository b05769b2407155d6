"""Scans sent along a chain: what is made of each at every later stage, compared with real scans, beside the floors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from gen3d.cohort.folder import Prepared
from gen3d.core.tables import Row
from gen3d.models.transition.framing import Pictures
from gen3d.nets.inception import FidInception
from gen3d.nets.lpips import Lpips
from gen3d.nets.picture_features import PictureFeatures, PictureNetwork
from gen3d.stages.chain import MADE, Chain
from gen3d.stages.folder import CHAIN, COPY, DIRECT, OTHER, PAIRED, PUBLISHED
from gen3d.stages.measures import Thresholds, errors, nearest, reading, white_level
from gen3d.stages.people import StagePeople
from gen3d.stages.summaries import INCEPTION

SLICES_OF_VOLUME = 8
"""Axial slices of a volume, over its middle, that a network of pictures sees."""

LITE0 = "EfficientNet-Lite0"

Keep = Callable[[int, int, Pictures], None]


@dataclass
class FeatureSets:
    """Feature vectors of scans by one network of pictures, [S, F] each.

    `made`: (start, stage, candidate) -> row of the source -> vectors; `real`: row -> vectors.
    """

    made: dict[tuple[int, int, str], dict[int, NDArray[np.float32]]] = field(default_factory=dict)
    real: dict[int, NDArray[np.float32]] = field(default_factory=dict)


@dataclass
class Sent:
    """What came of it: rows of `compared`, `readings` and of changes by people; made and real scans by (start, stage)."""

    compared: list[Row] = field(default_factory=list)
    readings: list[Row] = field(default_factory=list)
    changes: list[Row] = field(default_factory=list)
    made: dict[tuple[int, int, str], dict[int, NDArray[np.float32]]] = field(default_factory=dict)
    """(start, stage, candidate) -> row of the source -> flattened pictures, for retrieval."""

    sets: dict[str, FeatureSets] = field(default_factory=dict)
    """Name of a network of pictures -> the feature vectors of all scans."""


@dataclass
class Sending:
    """Sends every scan of `people` that is before the last stage along its fold's generators."""

    chain: Chain
    prepared: Prepared
    people: StagePeople
    thresholds: Thresholds
    seed: int
    network: PictureNetwork | None = None
    direct: Chain | None = None
    lpips: Lpips | None = None
    inception: FidInception | None = None
    sent: Sent = field(default_factory=Sent)

    def send(self, row: int, keep: Keep) -> None:
        """Send one scan; `keep(row, stage, pictures)` is called for each scan that the chain makes of it."""
        start, fold = int(self.people.codes[row]), int(self.people.folds[row])
        pictures, masks = self.chain.scan(self.prepared, self.people.keys[row])
        brain = masks > 0
        white = white_level(pictures, brain)
        self._settled(row, pictures, brain)
        self._read(row, start, start, "", pictures, brain, white)
        self._real_vectors(row, pictures)
        for stage, made in enumerate(self.chain.along(fold, start, pictures), start=start + 1):
            candidates = {CHAIN: made, **self.chain.floors(fold, start, stage, pictures, masks)}
            candidates |= self._direct(row, start, stage, pictures)
            for name, values in candidates.items():
                self._read(row, start, stage, name, values, brain, white)
                if name in MADE:
                    self.sent.made.setdefault((start, stage, name), {})[row] = values.ravel()
            self._compare(row, start, stage, candidates, brain)
            self._changed(row, start, stage, candidates, brain)
            keep(row, stage, made)

    def _direct(self, row: int, start: int, stage: int, pictures: Pictures) -> dict[str, Pictures]:
        """The scan made in one step by the run that learned it, where that never saw the person."""
        if self.direct is None or self.direct.stages != (self.people.stages[start], self.people.stages[stage]):
            return {}
        blind = self.direct.blind(self.people.table.iloc[[row]])[:, 0]
        return {DIRECT: self.direct.generator(int(blind.argmax()), 0).translate(pictures)} if blind.any() else {}

    def _compare(
        self, row: int, start: int, stage: int, candidates: dict[str, Pictures], brain: NDArray[np.bool_]
    ) -> None:
        targets: dict[str, tuple[int, Pictures]] = {}
        partners = self.people.partners(row, stage, self.seed)
        if partners:
            targets[PUBLISHED] = partners[0], self._pictures(partners[0])
        own = self.people.own(row, stage)
        if own is not None:
            targets[PAIRED] = own, self._pictures(own)
        shown = dict(candidates)
        if len(partners) > 1:
            shown[OTHER] = self._pictures(partners[1])
        features = self._features([*shown.values(), *(pictures for _, pictures in targets.values())])
        for network, by_stack in self._vectors(list(candidates.values())).items():
            for name, vectors in zip(candidates, by_stack, strict=True):
                self.sent.sets[network].made.setdefault((start, stage, name), {})[row] = vectors
        for place, (protocol, (partner, real)) in enumerate(targets.items()):
            for number, (name, made) in enumerate(shown.items()):
                measured = errors(made, real, brain, self.chain.config.intensity_range, self._flat)
                if features is not None:
                    measured["feature_distance"] = self._distance(features, number, len(shown) + place)
                if self.lpips is not None:
                    measured["lpips"] = self._lpips(made, real)
                self.sent.compared.append(
                    {
                        **self._named(row, start, stage),
                        "steps": stage - start,
                        "candidate": name,
                        "protocol": protocol,
                        "partner": self.people.keys[partner],
                        **measured,
                    }
                )

    def _named(self, row: int, start: int, stage: int) -> Row:
        stages = self.people.stages
        named = {"key": self.people.keys[row], "subject": self.people.subjects[row]}
        return {**named, "start": stages[start], "stage": stages[stage]}

    @property
    def _flat(self) -> bool:
        return self.chain.config.dimensions == 2

    def _pictures(self, row: int) -> Pictures:
        pictures = self.chain.scan(self.prepared, self.people.keys[row])[0]
        self._real_vectors(row, pictures)
        return pictures

    def _read(
        self, row: int, start: int, stage: int, name: str, values: Pictures, brain: NDArray[np.bool_], white: float
    ) -> None:
        measured = reading(values, brain, white, self.thresholds)
        self.sent.readings.append({**self._named(row, start, stage), "candidate": name, **measured})

    def _changed(
        self, row: int, start: int, stage: int, candidates: dict[str, Pictures], brain: NDArray[np.bool_]
    ) -> None:
        """How much the chain changes a scan, and how far it is from the generator that takes the steps at once."""
        change = _mean_change(candidates[CHAIN], candidates[COPY], brain)
        self.sent.changes.append({**self._named(row, start, stage), "what": "changed", "value": change})
        drift = float((candidates[CHAIN] - candidates[COPY])[brain].mean()) if brain.any() else 0.0
        self.sent.changes.append({**self._named(row, start, stage), "what": "drift of intensity", "value": drift})
        if DIRECT in candidates:
            apart = _mean_change(candidates[CHAIN], candidates[DIRECT], brain)
            self.sent.changes.append({**self._named(row, start, stage), "what": "chain from direct", "value": apart})

    def _settled(self, row: int, pictures: Pictures, brain: NDArray[np.bool_]) -> None:
        """What the generator that leads to the scan's stage makes of a scan that is there already."""
        stage, fold = int(self.people.codes[row]), int(self.people.folds[row])
        if stage > 0:
            again = self.chain.generator(fold, stage - 1).translate(pictures)
            value = _mean_change(again, pictures, brain)
            self.sent.changes.append({**self._named(row, stage - 1, stage), "what": "already there", "value": value})

    def rest(self, row: int) -> None:
        """Look at a scan of the last stage, which is sent nowhere."""
        pictures, masks = self.chain.scan(self.prepared, self.people.keys[row])
        brain, stage = masks > 0, int(self.people.codes[row])
        self._settled(row, pictures, brain)
        self._read(row, stage, stage, "", pictures, brain, white_level(pictures, brain))
        self._real_vectors(row, pictures)

    def _seen_by_network(self, stack: Pictures) -> Pictures:
        """Pictures [S, H, W] for a network of pictures, from 0 to 1."""
        if not self._flat:
            volume = self.chain.frame.unpadded(stack)[0]
            places = np.linspace(0.3, 0.7, SLICES_OF_VOLUME) * (volume.shape[2] - 1)
            stack = np.moveaxis(volume, 2, 0)[places.round().astype(int)]
        return np.ascontiguousarray(stack / self.chain.config.intensity_range, dtype=np.float32)

    def _features(self, stacks: list[Pictures]) -> PictureFeatures | None:
        if self.network is None:
            return None
        device = next(self.network.parameters()).device
        pictures = np.concatenate([self._seen_by_network(stack) for stack in stacks])
        return self.network.features(torch.from_numpy(pictures).to(device))

    @property
    def _num_slices(self) -> int:
        return self.chain.frame.num_pictures if self._flat else SLICES_OF_VOLUME

    def _distance(self, features: PictureFeatures, first: int, second: int) -> float:
        size = self._num_slices
        return float(np.mean([features.distance(first * size + k, second * size + k) for k in range(size)]))

    def _lpips(self, first: Pictures, second: Pictures) -> float:
        assert self.lpips is not None
        device: torch.device = next(self.lpips.network.parameters()).device
        pairs = [torch.from_numpy(self._seen_by_network(stack)).to(device) for stack in (first, second)]
        return float(self.lpips.distances(*pairs).mean())

    def _vectors(self, stacks: list[Pictures]) -> dict[str, list[NDArray[np.float32]]]:
        """Of every network that there is, the feature vectors [S, F] of each stack."""
        found: dict[str, NDArray[np.float32]] = {}
        features = self._features(stacks)
        if features is not None:
            found[LITE0] = features.vectors.cpu().numpy()
        if self.inception is not None:
            pictures = np.concatenate([self._seen_by_network(stack) for stack in stacks])
            device = next(self.inception.parameters()).device
            found[INCEPTION] = self.inception.features(torch.from_numpy(pictures).to(device)).cpu().numpy()
        for name in found:
            self.sent.sets.setdefault(name, FeatureSets())
        return {name: np.split(vectors, len(stacks)) for name, vectors in found.items()}

    def _real_vectors(self, row: int, pictures: Pictures) -> None:
        if any(row not in sets.real for sets in self.sent.sets.values()) or not self.sent.sets:
            for name, (vectors,) in self._vectors([pictures]).items():
                self.sent.sets[name].real[row] = vectors

    def retrieved(self, start: int, stage: int, name: str) -> tuple[int, int]:
        """Of how many made scans the own source is the most similar of all sources, and how many there are."""
        made = self.sent.made[start, stage, name]
        sources = self.sent.made[start, stage, COPY]
        rows = list(made)
        found = nearest(np.stack([made[row] for row in rows]), np.stack([sources[row] for row in rows]))
        return int((found == np.arange(len(rows))).sum()), len(rows)


def _mean_change(made: Pictures, source: Pictures, brain: NDArray[np.bool_]) -> float:
    difference = np.abs(made - source)
    return float(difference[brain].mean() if brain.any() else difference.mean())
