"""A condition planted in a real, prepared scan: the scan is denoised, changed, and given noise and a bias field of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from gen3d.cohort.regions import all_regions
from gen3d.core.errors import UserError
from gen3d.imaging import deformation
from gen3d.imaging.conform import levels_under
from gen3d.imaging.density import modulated_density
from gen3d.imaging.intensity import LIMITS, TissueLevels
from gen3d.imaging.registration import MINIMUM_JACOBIAN, Deformation, deform
from gen3d.imaging.template import template_on
from gen3d.simulate.anatomy import AnatomySpace, condition_anatomy
from gen3d.simulate.appearance import bias_field
from gen3d.simulate.conditions import Condition, condition_targets
from gen3d.simulate.label_maps import LabelMaps, labels_on_plan, open_label_maps, plain_name
from gen3d.simulate.lesion_masks import LesionMask
from gen3d.simulate.person import CHANGED_INTENSITY, HINDBRAIN, ScanTruth, plant_lesion
from gen3d.simulate.scan_noise import Noise, split_noise

Floats = NDArray[np.float32]

TISSUE_LEVEL = 0.6  # of white matter: darker voxels are fluid or half fluid, where a lesion cannot be
BIAS_SD = 0.01  # of the logarithm of the new field: what N4 leaves behind in a second scan of the same person
FRACTIONS_TRIED = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2)

# Streams of random numbers of a twin, see `twin_stream`.
CONDITION, LESION, BIAS, NOISE, REFERENCE = range(5)


def twin_stream(seed: int, base: str, condition: str, purpose: int) -> np.random.Generator:
    """The random numbers of one purpose for the twin of ``base`` with ``condition``; they depend on nothing else."""
    digest = hashlib.sha256(f"{base}\n{condition}".encode()).digest()
    return np.random.default_rng([seed, 23, purpose, int.from_bytes(digest[:8], "little")])


@dataclass(frozen=True)
class Planted:
    """A twin's scan [X, Y, Z] before the intensity rule, its brain, the noiseless image and what was planted."""

    scan: Floats
    noiseless: Floats
    brain: NDArray[np.bool_]
    truth: ScanTruth


class Base:
    """A healthy scan on the grid from which twins are made; what is costly is computed once, when it is first needed.

    ``scan``, ``log_jacobian`` and ``density`` are its stored volumes (white matter 1, background 0; None without the channel);
    ``template_to_scan`` is the matrix that prepare kept, which only label maps need.
    """

    def __init__(
        self,
        key: str,
        scan: Floats,
        log_jacobian: Floats | None,
        space: AnatomySpace,
        template_to_scan: NDArray[np.float64] | None = None,
        density: Floats | None = None,
    ) -> None:
        self.key, self.scan, self.log_jacobian, self.density = key, scan, log_jacobian, density
        self.space, self.template_to_scan = space, template_to_scan

    @cached_property
    def brain(self) -> NDArray[np.bool_]:
        """Where the scan has tissue or enclosed fluid."""
        return np.asarray(ndimage.binary_fill_holes(self.scan > 0))

    @cached_property
    def _split(self) -> tuple[Floats, Noise]:
        return split_noise(self.scan, template_on(self.space.plan))

    @property
    def clean(self) -> Floats:
        """The scan without its noise."""
        return self._split[0]

    @cached_property
    def continued(self) -> Floats:
        """The denoised scan with the nearest tissue instead of the background.

        A stored scan ends at the template's brain mask, often in the middle of tissue: what moves there must not draw
        background in.
        """
        nearest = ndimage.distance_transform_edt(~self.brain, return_distances=False, return_indices=True)
        return np.asarray(self.clean[tuple(nearest)], dtype=np.float32)

    @property
    def noise(self) -> Noise:
        """Level and correlation of the scan's noise."""
        return self._split[1]

    @cached_property
    def reference(self) -> Floats:
        """A null twin that is not kept: twins are compared with it, so that what denoising does cancels out."""
        noise = self.noise.draw(self.scan.shape, twin_stream(0, self.key, "", REFERENCE))
        return np.where(self.brain, np.maximum(self.clean + noise, 0), 0).astype(np.float32)

    @cached_property
    def deformation(self) -> Deformation:
        """Template -> scan, by the plan's own registration of the reference."""
        return deform(self.reference, self.space.plan)

    @cached_property
    def levels(self) -> TissueLevels:
        """Tissue levels of the reference, read as `prepare` reads them."""
        return levels_under(self.reference, self.brain, self.deformation, template_on(self.space.plan))

    @property
    def to_scan(self) -> Floats:
        """Displacement template -> scan."""
        return self.deformation.displacement

    @cached_property
    def local(self) -> AnatomySpace:
        """The package's regions and the fluid that can give or take volume, carried into the scan."""
        to_template = deformation.invert(self.to_scan)
        labels = deformation.warp(self.space.labels, to_template, order=0)
        return AnatomySpace(self.space.plan, labels, deformation.warp(self.space.fluid, to_template), self.space.mask)


def plant(
    base: Base,
    condition: Condition,
    severity: float,
    masks: tuple[LesionMask, ...],
    seed: int,
    name: str,
) -> Planted:
    """The twin of a base with a condition: ``name`` is the condition's name in the bench and part of the random seed.

    Every twin, the null twin too, goes through the same steps: denoising, planting, a new smooth bias field, new noise of the
    base's level and correlation. (The noise is Gaussian: brain tissue is far enough from zero that the magnitude of
    complex noise is, too, and its offset is in the denoised scan already.)

    Raises:
        ValueError: the condition cannot be made in this scan on this grid.
    """

    def stream(purpose: int) -> np.random.Generator:
        return twin_stream(seed, base.key, name, purpose)

    image, brain = base.clean, base.brain
    truth = ScanTruth(np.zeros(image.shape, np.float32), np.zeros(image.shape, bool))
    if condition.kind == "lesion":
        where = (base.clean > TISSUE_LEVEL) & base.space.mask
        if not masks:
            where &= ~np.isin(base.space.labels, HINDBRAIN)
        image, truth = plant_lesion(image, where, condition, severity, masks, base.space.plan, stream(LESION))
    elif condition.kind != "null":
        image, truth = _change_volumes(base, condition, severity, stream(CONDITION))
    scan = image * bias_field(image.shape, BIAS_SD, stream(BIAS)) + base.noise.draw(image.shape, stream(NOISE))
    return Planted(np.where(brain, np.maximum(scan, 0), 0).astype(np.float32), image, brain, truth)


@dataclass(frozen=True)
class Channels:
    """The stored volumes of a scan [X, Y, Z], its tissue levels, and the quality of its registration."""

    t1w: Floats
    log_jacobian: Floats | None
    density: Floats | None
    levels: TissueLevels
    quality: dict[str, float]


def channels_of(base: Base, planted: Planted) -> Channels:
    """What prepare would have made of the twin's scan: intensity rule and deformation.

    A stored scan ends at the template's brain mask, which prepare applies after the registration: registered again, it gives
    smaller volumes than prepare found, and other tissue levels. So the base (its `reference`) and the twin are both
    measured as stored, and what differs between them is added to what prepare found in the base.
    """
    template, known = template_on(base.space.plan), base.levels
    deformation = deform(planted.scan, base.space.plan)
    levels = levels_under(planted.scan, planted.brain, deformation, template)
    slope = (known.white - known.grey) / max(levels.white - levels.grey, 1e-3)
    t1w = np.where(planted.brain, np.clip(known.white + slope * (planted.scan - levels.white), *LIMITS), 0)
    t1w = (t1w * template.mask).astype(np.float32)
    if base.log_jacobian is None:
        return Channels(t1w, None, None, levels, {})
    log_jacobian = base.log_jacobian + deformation.log_jacobian - base.deformation.log_jacobian
    log_jacobian = np.where(template.mask, np.maximum(log_jacobian, np.log(MINIMUM_JACOBIAN)), 0).astype(np.float32)
    quality = deformation.quality | {"log_jacobian_sd": float(log_jacobian[template.mask].std())}
    density = None
    if base.density is not None:
        own = modulated_density(base.reference, base.deformation, template)
        density = np.maximum(base.density + modulated_density(t1w, deformation, template) - own, 0)
    return Channels(t1w, log_jacobian, density, levels, quality)


def _change_volumes(
    base: Base, condition: Condition, severity: float, rng: np.random.Generator
) -> tuple[Floats, ScanTruth]:
    """Volume changes: the noiseless image, whose brain has the outline of the base, and the truth."""
    local, maps = base.local, _maps(condition)
    if maps is None:
        labels, wanted = local.labels, condition_targets(condition, severity, rng)
        there = set(np.unique(labels).tolist())
        absent = [label for label in wanted if label not in there]
        if absent and condition.changes:
            name = all_regions()[absent[0] - 1].name
            raise ValueError(f"region '{name}' fills no voxel of this grid in this scan")
        wanted = {label: log for label, log in wanted.items() if label in there}
    else:
        wanted = {
            label: severity * float(np.log1p(percent / 100))
            for region, percent in condition.changes.items()
            for label in maps.find(region)
        }
        labels = _drawn_labels(base, maps, list(wanted))
    change = _reachable(local, labels, wanted)
    backwards = deformation.invert(change.displacement, deformation.exponential(-change.velocity))
    image = np.where(base.brain, np.maximum(deformation.warp(base.continued, backwards, order=3), 0), 0)
    image = image.astype(np.float32)
    changed = (np.abs(image - base.clean) > CHANGED_INTENSITY) & base.space.mask
    log_jacobian = np.where(base.space.mask, deformation.warp(change.log_jacobian, base.to_scan), 0).astype(np.float32)
    error = 100 * max((abs(float(np.expm1(change.log_changes[k] - log))) for k, log in wanted.items()), default=0.0)
    percent = _percent_changes(local.labels, change)
    if maps is not None:
        percent |= _drawn_percent(maps, change.log_changes)
    return image, ScanTruth(log_jacobian, changed, percent, 0.0, error)


def _maps(condition: Condition) -> LabelMaps | None:
    if condition.labels is None or condition.label_names is None:
        return None
    return open_label_maps(Path(condition.labels), Path(condition.label_names))


def _drawn_labels(base: Base, maps: LabelMaps, wanted: list[int]) -> NDArray[np.int16]:
    """The wanted regions of the label map that was drawn in this scan, on the grid."""
    path = maps.path(base.key)
    if path is None or base.template_to_scan is None:
        raise ValueError("there is no label map of this scan, or no transform to its own space")
    return labels_on_plan(path, base.template_to_scan, wanted, base.brain, base.space.plan)


def _reachable(local: AnatomySpace, labels: NDArray[np.int16], wanted: Mapping[int, float]) -> deformation.Reached:
    """The deformation that makes the changes; where there is none, `ValueError` says what share of them there is."""
    response_space = local if labels is local.labels else AnatomySpace(local.plan, labels, local.fluid, local.mask)
    try:
        return condition_anatomy(response_space, labels, wanted, None)
    except ValueError as error:
        reason = error
    for fraction in FRACTIONS_TRIED:
        try:
            condition_anatomy(response_space, labels, {label: fraction * log for label, log in wanted.items()}, None)
        except ValueError:
            continue
        strongest = 100 * np.expm1(fraction * max(wanted.values(), key=abs))
        raise ValueError(f"the largest change that works is about {strongest:+.0f} %") from None
    raise ValueError(str(reason)) from None


def _percent_changes(labels: NDArray[np.int16], change: deformation.Reached) -> dict[str, float]:
    """Volume change of every one of the package's regions that the scan has, percent."""
    sizes = np.bincount(labels.ravel(), minlength=len(all_regions()) + 1)
    determinant = np.exp(change.log_jacobian)
    after = np.bincount(labels.ravel(), weights=determinant.ravel(), minlength=len(sizes))
    return {
        region.name: 100 * (float(after[region.label]) / float(sizes[region.label]) - 1)
        for region in all_regions()
        if sizes[region.label]
    }


def _drawn_percent(maps: LabelMaps, log_changes: Mapping[int, float]) -> dict[str, float]:
    """Exact changes of drawn regions that the package has under the same name: they replace what its own region shows."""
    package_names = {plain_name(region.name): region.name for region in all_regions()}
    return {
        package_names[maps.names[label]]: 100 * float(np.expm1(log))
        for label, log in log_changes.items()
        if maps.names[label] in package_names
    }


def check_on_template(space: AnatomySpace, conditions: Mapping[str, Condition]) -> None:
    """Refuse changes of volume that cannot even be made in the template itself, before any scan is touched.

    Raises:
        UserError: naming the condition and what would work.
    """
    for name, condition in conditions.items():
        if condition.labels is not None or condition.kind in ("lesion", "null"):
            continue
        wanted = condition_targets(condition, max(condition.severities), np.random.default_rng(0))
        try:
            _reachable(space, space.labels, wanted)
        except ValueError as error:
            raise UserError(
                f"conditions.{name} cannot be made at {space.plan.spacing_mm:g} mm ({error}); lower its changes or "
                "severity, or use a finer grid."
            ) from None
