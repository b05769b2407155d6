"""The memorisation audit: whether the synthetic scans of a run are copies of its training people.

Synthetic scans, training scans and held-out scans are compared in at least two embeddings: the autoencoder's latents, and
the T1w brain in coarse voxels. Real scans go through the autoencoder first, so that all scans have the same blur.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from pydantic import Field
from scipy import ndimage
from torch import Tensor

from gen3d.cohort.channels import T1W
from gen3d.cohort.folder import Prepared
from gen3d.cohort.manifest import is_twin, subject_hash
from gen3d.core import words as spell
from gen3d.core.config import Config
from gen3d.core.errors import UserError
from gen3d.core.memory import announce_memory
from gen3d.core.progress import track
from gen3d.maths.stats import Interval, wilson_interval
from gen3d.models.diffusion.latent_diffusion import LatentDiffusion
from gen3d.models.run import Run, require_finite_output
from gen3d.synthesis.memorisation import Memorisation, RealScans, memorisation
from gen3d.synthesis.picture import draw_samples

Float = NDArray[np.float32]
Extractor = Callable[[Float], Float]
"""A volume [C, X, Y, Z] in stored units -> its features [d]."""

LATENT, VOXELS, EXTRACTOR = "latent", "voxels", "extractor"
LEAST_TRAINING_PEOPLE = 2


class AuditSettings(Config):
    """When synthetic scans count as copies of training scans, and how many are too many."""

    limit: float = Field(
        0.01, ge=0, le=1, description="share of synthetic scans that may be copies before the audit fails"
    )
    tail: float = Field(
        1e-5, gt=0, lt=0.5, description="largest probability that a real person is as isolated as a copy, extrapolated"
    )
    percentiles: tuple[float, ...] = Field(
        (95.0, 99.0), description="of held-out people's correlations, for the shares above; not in the verdict"
    )
    min_held_out: int = Field(8, ge=4, description="fewest people the run never saw")
    mirrored: bool = Field(True, description="compare with left-right mirrored training scans too")
    spacing_mm: float = Field(6.0, gt=0, description="smoothing (FWHM) and spacing of the voxel embedding, mm")
    draws: int = Field(1000, ge=100, description="bootstrap draws behind the intervals")
    seed: int = Field(0, description="seed of those draws")


@dataclass(frozen=True)
class Audit:
    """The result of an audit. `embeddings`: name -> figures; `train`: subject and key of each training scan, by row number."""

    settings: AuditSettings
    run_key: str
    keys: tuple[str, ...]
    train: pd.DataFrame
    embeddings: dict[str, Memorisation]

    @property
    def copied(self) -> NDArray[np.bool_]:
        """Which synthetic scans are copies, in one embedding or more, [s]."""
        return np.any([figures.copied for figures in self.embeddings.values()], axis=0)

    @property
    def copies(self) -> Interval:
        """Their share."""
        return wilson_interval(int(self.copied.sum()), len(self.keys))

    @property
    def failed(self) -> bool:
        """Whether more scans are copies than the settings allow."""
        return self.copies.value > self.settings.limit

    @property
    def rule(self) -> str:
        """The condition under which the audit fails, as a predicate."""
        return (
            f"fails when more than {spell.percent(self.settings.limit)} of the synthetic scans are copies in an embedding. A scan "
            "is a copy when its similarity to its nearest training person, or nearest two, exceeds that to all other people by "
            f"more than is expected of one in {1 / self.settings.tail:,.0f} real people"
        )

    @property
    def sentences(self) -> list[str]:
        """The result in sentences, the verdict first."""
        num, share = int(self.copied.sum()), self.copies
        verdict = "failed" if self.failed else "passed"
        by_embedding = ", ".join(f"{int(figures.copied.sum())} by {name}" for name, figures in self.embeddings.items())
        interval = spell.interval(100 * share.value, 100 * share.low, 100 * share.high, 1)
        lines = [
            f"memorisation audit {verdict}: {num} of {len(self.keys)} synthetic scans are copies of a training scan "
            f"({by_embedding}; {interval} %; limit {spell.percent(self.settings.limit)})"
        ]
        return lines + [_sentence(name, figures) for name, figures in self.embeddings.items()]

    @property
    def nearest(self) -> pd.DataFrame:
        """Per synthetic scan and embedding its nearest training person: `nearest_subject` and `nearest_scan` are hashes."""
        frames = []
        for name, figures in self.embeddings.items():
            rows = self.train.iloc[figures.nearest]
            columns = {
                "key": self.keys,
                "embedding": name,
                "nearest_subject": [subject_hash(subject) for subject in rows["subject"]],
                "nearest_scan": [subject_hash(key) for key in rows["key"]],
                "mirrored": figures.mirrored,
                "similarity": figures.similarity,
                "isolation": figures.isolation,
                "threshold": figures.threshold,
                "copy": figures.copied,
            }
            frames.append(pd.DataFrame(columns))
        return pd.concat(frames, ignore_index=True)

    def to_dict(self) -> dict[str, Any]:
        """Every figure with its interval and n, JSON-ready; no person can be read off it."""
        return {
            "failed": self.failed,
            "rule": self.rule,
            "run": self.run_key,
            "settings": self.settings.settings(),
            "num_synthetic": len(self.keys),
            "copies": _plain(self.copies),
            "embeddings": {name: _figures(figures) for name, figures in self.embeddings.items()},
        }

    def most_copied(self, num: int) -> list[tuple[str, str, str, bool]]:
        """The scans that are nearest to being copies: (synthetic key, embedding, key of the training scan, mirrored)."""
        names = list(self.embeddings)
        excess = np.stack([figures.isolation / figures.threshold for figures in self.embeddings.values()])
        listed = []
        for scan in np.argsort(-excess.max(axis=0), kind="stable")[:num]:
            name = names[int(excess[:, scan].argmax())]
            figures = self.embeddings[name]
            key = str(self.train["key"].iloc[figures.nearest[scan]])
            listed.append((self.keys[scan], name, key, bool(figures.mirrored[scan])))
        return listed


def _figures(figures: Memorisation) -> dict[str, Any]:
    names = ("copies", "subjects_copied", "paired", "accuracy_train", "accuracy_held_out", "privacy_loss", "membership")
    return {
        "num_train_people": figures.num_train,
        "num_held_out_people": figures.num_held_out,
        "threshold": figures.threshold,
        "largest_isolation": float(figures.isolation.max()),
        "largest_isolation_of_real_people": float(figures.real_isolation.max()),
        "num_doubles": figures.num_doubles,
        "closeness": [asdict(closeness) for closeness in figures.closeness],
        **{name: _plain(getattr(figures, name)) for name in names},
    }


def _plain(interval: Interval) -> dict[str, float | None]:
    """An interval as JSON, which has no NaN."""
    return {name: None if np.isnan(value) else value for name, value in asdict(interval).items()}


def _sentence(name: str, figures: Memorisation) -> str:
    def shown(interval: Interval) -> str:
        return spell.interval(interval.value, interval.low, interval.high)

    remarks = []
    if figures.membership.low > 0.5:
        remarks.append(
            "synthetic scans are nearer to training people (one of them, or their mean) than to held-out people"
        )
    if figures.num_doubles:
        remarks.append(f"{figures.num_doubles} real people are as isolated as copies: look for people with two names")
    result = (
        f"{name}: {figures.num_train} training and {figures.num_held_out} held-out people; copies of "
        f"{spell.percent(figures.subjects_copied.value)} of the training people; largest isolation of a synthetic scan "
        f"{spell.number(figures.isolation.max(), 1)} SD, of a copy more than {spell.number(figures.threshold, 1)}; membership AUC "
        f"{shown(figures.membership)} and nearest of two a training person {shown(figures.paired)}, both 0.50 without "
        f"memorisation; privacy loss {shown(figures.privacy_loss)}, 0 without memorisation"
    )
    return "; ".join([result, *remarks])


def run_audit(
    run: Run,
    synthetic: Iterable[tuple[str, Float]],
    reference: Prepared,
    settings: AuditSettings | None = None,
    extractor: Extractor | None = None,
) -> Audit:
    """Compare synthetic scans with the training people of a run and with people that it never saw.

    Args:
        run: the generator's run; its autoencoder makes the latents.
        synthetic: key and volume [C, X, Y, Z] of each synthetic scan, in stored units, channels in the order of
            `run.channels`; read once, one at a time.
        reference: the prepared cohort the run was trained on, with held-out people, or several such folders as one.
        settings: limits; None for the defaults.
        extractor: a further embedding.

    Raises:
        UserError: another plan, no synthetic scans, too few training or held-out people in the reference, no latents.
    """
    settings = settings or AuditSettings()
    run.require(reference)
    if not run.comparable_latents:
        raise UserError(f"{run.folder}: a {run.kind} run of {run.num_members} members has no latents to audit with.")
    train, held_out = known_people(run, reference, settings)
    num_real = num_compared(train, held_out, settings)
    _announce_comparison(num_real)
    embedder = _Embedder(run, settings, extractor)
    groups = [_real_scans(embedder, reference, frame, settings.mirrored) for frame in (train, held_out)]
    keys, synthetic_vectors = [], []
    for key, volume in track(synthetic, "auditing synthetic scans"):
        keys.append(key)
        synthetic_vectors.append(embedder.of_synthetic(volume))
    if not keys:
        raise UserError(f"{run.folder}: no synthetic scans were given to audit.")
    _announce_comparison(num_real + len(keys))
    embeddings = {}
    for name in embedder.names:
        vectors, (seen, unseen) = (
            np.stack([embedded[name] for embedded in synthetic_vectors]),
            (group[name] for group in groups),
        )
        if name == LATENT:
            vectors, seen, unseen = _standardised(vectors, seen, unseen)
        embeddings[name] = memorisation(
            vectors,
            seen,
            unseen,
            tail=settings.tail,
            percentiles=settings.percentiles,
            num_resamples=settings.draws,
            seed=settings.seed,
        )
    return Audit(settings, run.artefact.key, tuple(keys), train[["subject", "key"]], embeddings)


def num_compared(train: pd.DataFrame, held_out: pd.DataFrame, settings: AuditSettings) -> int:
    """Scans of real people and their mirror images that an audit compares with each other."""
    return (len(train) + len(held_out)) * (2 if settings.mirrored else 1)


def _announce_comparison(num_scans: int) -> None:
    """Refuse more scans than can be compared with each other: their inner products, distances, and a copy."""
    what = f"the comparisons of {num_scans} scans and mirror images in the audit"
    announce_memory(what, 3 * 8 * num_scans**2, "set audit.mirrored=false or give fewer scans")


def known_people(run: Run, reference: Prepared, settings: AuditSettings) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows of the scans of a run's training people, and of people with the same diagnoses that it never saw.

    Raises:
        UserError: too few of them.
    """
    table = reference.manifest
    table = table[(table["role"] != "excluded") & ~is_twin(table)]
    if "generator" in table.columns:  # synthetic scans in the reference are not people
        table = table[table["generator"].isna() | (table["generator"] == "")]
    seen = run.seen.by_any(table)
    train = table[seen].reset_index(drop=True)
    num_train = train["subject"].nunique()
    if num_train < LEAST_TRAINING_PEOPLE:
        raise UserError(
            f"{reference.folders[0]}: holds {num_train} of the training people of {run.folder}, so copies of them "
            "cannot be found; give the prepared folders that its autoencoder and the run itself were trained on."
        )
    diagnoses = sorted(set(train["diagnosis"]))
    held_out = table[~seen & table["diagnosis"].isin(diagnoses)].reset_index(drop=True)
    if held_out["subject"].nunique() < settings.min_held_out:
        raise UserError(
            f"{reference.folders[0]}: holds {held_out['subject'].nunique()} people that {run.folder} never saw with the "
            f"diagnosis {' or '.join(diagnoses)}, and the audit needs {settings.min_held_out}; add a prepared folder with "
            "more of them, or lower audit.min_held_out."
        )
    return train, held_out


class _Embedder:
    """Turns volumes into embeddings, one at a time."""

    def __init__(self, run: Run, settings: AuditSettings, extractor: Extractor | None) -> None:
        self._model, self._device, self._extractor = run.member(0), run.device, extractor
        self._folder = run.folder
        self.channels = run.channels
        self._channel = run.channels.index(T1W) if T1W in run.channels else 0
        mask = self._model.brain_mask.cpu().numpy()
        self._coarse = CoarseVoxels(mask, run.plan.spacing_mm, settings.spacing_mm)
        self.names = (LATENT, VOXELS) if extractor is None else (LATENT, VOXELS, EXTRACTOR)

    @torch.no_grad()
    def of_synthetic(self, volume: Float) -> dict[str, Float]:
        """Embeddings of a decoded volume [C, X, Y, Z]."""
        return self._embed(self._encode(self._batch(volume)), volume)

    @torch.no_grad()
    def of_real(self, volume: Float) -> dict[str, Float]:
        """Embeddings of a scan [C, X, Y, Z], of its reconstruction where they are made from voxels."""
        volumes = self._batch(volume)
        latents = self._encode(volumes)
        model = self._model
        decoded = model.decode(latents) if isinstance(model, LatentDiffusion) else model.expect(volumes).mean
        return self._embed(latents, decoded[0].float().cpu().numpy())

    def _batch(self, volume: Float) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(volume, dtype=np.float32))[None].to(self._device)

    def _encode(self, volumes: Tensor) -> Tensor:
        model = self._model
        return model.autoencoder.encode(volumes) if isinstance(model, LatentDiffusion) else model.encode(volumes)

    def _embed(self, latents: Tensor, volume: Float) -> dict[str, Float]:
        latent = latents[0].flatten().float().cpu().numpy()
        require_finite_output(latent, self._folder, "a scan of the audit")
        require_finite_output(volume, self._folder, "a scan of the audit")
        embedded = {LATENT: latent, VOXELS: self._coarse(volume[self._channel])}
        if self._extractor is not None:
            embedded[EXTRACTOR] = np.asarray(self._extractor(volume), dtype=np.float32).ravel()
        return embedded


class CoarseVoxels:
    """A volume [X, Y, Z], smoothed and sampled every few voxels inside the mask, [d]."""

    def __init__(self, mask: NDArray[np.bool_], spacing_mm: float, coarse_mm: float) -> None:
        self._step = max(1, round(coarse_mm / spacing_mm))
        self._sigma = coarse_mm / spacing_mm / np.sqrt(8.0 * np.log(2.0))
        self._inside = self._sampled(mask)

    def __call__(self, volume: Float) -> Float:
        """[X, Y, Z] -> [d]."""
        smoothed = ndimage.gaussian_filter(volume.astype(np.float32), self._sigma)
        return np.asarray(self._sampled(smoothed)[self._inside], dtype=np.float32)

    def _sampled(self, volume: NDArray[Any]) -> NDArray[Any]:
        return volume[(slice(self._step // 2, None, self._step),) * 3]


def _real_scans(embedder: _Embedder, reference: Prepared, frame: pd.DataFrame, mirrored: bool) -> dict[str, RealScans]:
    """Embeddings of the scans in a table, and of their mirror images."""
    plain: list[dict[str, Float]] = []
    mirror: list[dict[str, Float]] = []
    for key in track(frame["key"].tolist(), "auditing real scans"):
        volume = reference.load([key], embedder.channels)[0]
        plain.append(embedder.of_real(volume))
        if mirrored:
            mirror.append(embedder.of_real(volume[:, ::-1]))
    person = np.unique(frame["subject"].to_numpy(dtype=str), return_inverse=True)[1]

    def stacked(embedded: list[dict[str, Float]], name: str) -> Float:
        return np.stack([vectors[name] for vectors in embedded])

    return {
        name: RealScans(stacked(plain, name), person, stacked(mirror, name) if mirrored else None)
        for name in embedder.names
    }


def _standardised(synthetic: Float, train: RealScans, held_out: RealScans) -> tuple[Float, RealScans, RealScans]:
    """Latents with unit variance over training scans in every element; elements that do not vary become 0."""
    std = train.vectors.std(axis=0)
    scale = np.where(std > 1e-6 * std.max(), 1.0 / np.maximum(std, np.finfo(np.float32).tiny), 0.0).astype(np.float32)

    def scaled(scans: RealScans) -> RealScans:
        mirrored = None if scans.mirrored is None else scans.mirrored * scale
        return RealScans(scans.vectors * scale, scans.person, mirrored)

    return synthetic * scale, scaled(train), scaled(held_out)


def draw_nearest(
    path: Path, audit: Audit, synthetic: Callable[[str], Float], reference: Prepared, num: int = 6
) -> None:
    """Write a PNG: the synthetic scans that are nearest to being copies, each next to its nearest training scan.

    The picture shows patients: only those who may see the training scans should have it; it never goes into the dataset.

    Args:
        path: file to write.
        audit: the result.
        synthetic: key -> T1w volume [X, Y, Z].
        reference: the cohort of the audit.
        num: scans shown.
    """
    volumes, names = [], []
    for key, embedding, training_key, mirrored in audit.most_copied(num):
        figures = audit.embeddings[embedding]
        scan = audit.keys.index(key)
        real = reference.volume(training_key, T1W)
        volumes += [synthetic(key), real[::-1] if mirrored else real]
        verdict = "copy" if figures.copied[scan] else "no copy"
        names.append(
            f"{key}: {verdict}, isolation {spell.number(figures.isolation[scan], 1)} SD, limit {spell.number(figures.threshold, 1)}"
        )
        names.append(
            f"nearest training scan{', mirrored' if mirrored else ''} ({embedding}, r {spell.number(figures.similarity[scan])})"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(draw_samples(volumes, names, _title(audit), reference.plan))


def _title(audit: Audit) -> str:
    return f"{int(audit.copied.sum())} of {len(audit.keys)} synthetic scans are copies; left synthetic, right training scan"
