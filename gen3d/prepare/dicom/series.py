"""Files gathered to series, and the geometry of a series: which slices are there, there twice, or lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from gen3d.core import words
from gen3d.prepare.dicom.headers import Instance, SliceFrame

SAME_MM = 0.02
"""Positions closer than this are one."""
GAP = 1.5
"""Times the usual distance of neighbours, beyond which a slice between them is missing."""
UNEVEN = 0.05
"""Share of that distance by which others may differ: rounded headers."""
ONE_PLANE = 1e-3


@dataclass(frozen=True)
class Series:
    """The files of one series of one person's visit; `first` stands for what all of them share."""

    instances: tuple[Instance, ...]

    @property
    def first(self) -> Instance:
        """The file whose header is read for all."""
        return self.instances[0]

    def text(self, name: str) -> str:
        """A header's text, "" where it is absent."""
        return self.first.texts[name]

    def number(self, name: str) -> float:
        """A header's number, NaN where it is absent."""
        return self.first.numbers[name]

    @property
    def label(self) -> str:
        """What a person at the scanner calls it: its number."""
        number = self.number("SeriesNumber")
        return f"{number:.0f}" if np.isfinite(number) else "?"

    @cached_property
    def frames(self) -> tuple[SliceFrame, ...]:
        """All slices."""
        return tuple(frame for instance in self.instances for frame in instance.frames)

    @cached_property
    def image_type(self) -> frozenset[str]:
        """The words of any file's image type."""
        return frozenset(word for instance in self.instances for word in instance.image_type)

    @cached_property
    def echoes_ms(self) -> tuple[float, ...]:
        """The echo times, ascending."""
        return tuple(sorted({round(frame.echo_ms, 2) for frame in self.frames if np.isfinite(frame.echo_ms)}))

    @cached_property
    def name(self) -> str:
        """What its makers call it, in lower case: description, protocol and sequence."""
        names = ("SeriesDescription", "ProtocolName", "SequenceName", "PulseSequenceName")
        return " ".join(self.text(name) for name in names).lower()

    @property
    def order(self) -> tuple[str, float]:
        """Later series come later."""
        number = self.number("SeriesNumber")
        return self.text("AcquisitionTime") or self.text("SeriesTime"), number if np.isfinite(number) else 0.0

    def only(self, instances: Sequence[Instance]) -> Series:
        """The series without its other files."""
        return replace(self, instances=tuple(instances))


def gathered(instances: Sequence[Instance]) -> list[Series]:
    """Files by their series, in the order of numbers."""
    by_series: dict[tuple[str, str], list[Instance]] = {}
    for instance in instances:
        key = (instance.texts["StudyInstanceUID"], instance.texts["SeriesInstanceUID"])
        by_series.setdefault(key, []).append(instance)
    each = [Series(tuple(sorted(files, key=_place))) for files in by_series.values()]
    return sorted(each, key=lambda series: (series.text("StudyDate"), series.number("SeriesNumber"), series.order))


def _place(instance: Instance) -> tuple[float, str]:
    number = instance.numbers["InstanceNumber"]
    return (number if np.isfinite(number) else 0.0, instance.texts["SOPInstanceUID"])


@dataclass(frozen=True)
class Stack:
    """The slices of one echo: their distance, the size of a pixel and the length of all in mm; what is wrong with them, or ""."""

    num_slices: int
    spacing_mm: float
    pixel_mm: float
    length_mm: float
    fault: str


def stacked(series: Series) -> Stack:
    """The stack of a series with one echo, or that of its first."""
    frames = [frame for frame in series.frames if len(frame.position) == 3 and len(frame.orientation) == 6]
    if series.echoes_ms:
        frames = [frame for frame in frames if not round(frame.echo_ms, 2) > series.echoes_ms[0]]
    pixel_mm = max(series.first.pixel_mm, default=float("nan"))
    if not frames:
        return Stack(
            len(series.frames), float("nan"), pixel_mm, float("nan"), "its headers do not say where its slices lie"
        )
    directions = np.array([frame.orientation for frame in frames])
    if np.ptp(directions, axis=0).max() > ONE_PLANE:
        return Stack(
            len(frames), float("nan"), pixel_mm, float("nan"), "its slices lie in several directions: a localiser"
        )
    normal = np.cross(directions[0, :3], directions[0, 3:])
    places = np.sort(np.array([frame.position for frame in frames]) @ normal)
    different = places[np.insert(np.diff(places) > SAME_MM, 0, True)]
    steps = np.diff(different)
    spacing = float(np.median(steps)) if len(steps) else float("nan")
    length = float(np.ptp(different)) + spacing if len(steps) else 0.0
    return Stack(len(different), spacing, pixel_mm, length, _fault(series, len(frames), len(different), steps, spacing))


def _fault(series: Series, num_frames: int, num_places: int, steps: NDArray[np.float64], spacing: float) -> str:
    """What makes a stack unusable, as the end of a sentence."""
    short = sum(instance.is_short for instance in series.instances)
    if short:
        return f"truncated: {words.count(short, 'file')} of {len(series.instances)} end before their pixels do"
    if num_frames > num_places and num_frames % num_places == 0 and num_frames // num_places > 1:
        times = num_frames // num_places
        return f"every slice is there {times} times: a series over time, or files that were sent twice"
    if num_frames > num_places:
        return f"{words.count(num_frames - num_places, 'slice')} are there twice"
    if len(steps) and steps.max() > GAP * spacing:
        lost = int(np.round(steps / spacing - 1).clip(min=0).sum())
        return f"slices are missing: {lost} of {num_places + lost} between the first and the last"
    if len(steps) and np.abs(steps - spacing).max() > UNEVEN * spacing:
        return "its slices are not equally spaced"
    expected = series.number("ImagesInAcquisition")
    if len(series.instances) > 1 and np.isfinite(expected) and num_places < expected and len(series.echoes_ms) < 2:
        return f"truncated: {num_places} of {expected:.0f} slices"
    return ""
