"""A cohort of several visits whose true change is known, and folders of forecasts of it that are as good as a test asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field
from scipy.ndimage import gaussian_filter

from gen3d.cohort.folder import write_cohort
from gen3d.cohort.manifest import scan_key
from gen3d.cohort.scan_hash import voxel_hash
from gen3d.core.config import Folder, Verb
from gen3d.core.output_folder import begin
from gen3d.evaluate.evaluate import Evaluate
from gen3d.forecast.folder import INTERVALS, LEVELS, volume_path, write_forecasts
from gen3d.imaging.plan import GridPlan, plan_grid
from gen3d.imaging.template import template_on
from gen3d.imaging.volume import read_stored, store
from gen3d.simulate.folder import TRUTH_REGIONS, write_truth

Floats = NDArray[np.float64]
SPACING_MM = 4.0
VISITS = (0.0, 1.0, 3.0)
REGIONS = ("left hippocampus", "right hippocampus", "left lateral ventricle", "right lateral ventricle", "cuneus")
RATES = {"control": (-0.01, -0.01, 0.03, 0.03, 0.0), "AD": (-0.045, -0.045, 0.09, 0.09, 0.0)}
"""Mean log volume change per year."""

SD = 0.01
LEVEL_OF = {50: 0.6745, 80: 1.2816, 90: 1.6449}
"""Half the width of a Gaussian interval in SD."""


class Cohort(Verb):
    """Stand-in for the verb that simulates or prepares."""

    seed: int = Field(0, description="seed")


class Forecast(Verb):
    """Stand-in for the verb that forecasts."""

    prepared: Folder = Field(description="cohort")
    run_folder: Folder | None = Field(None, description="run")


class People:
    """Rates of change per person and region [n, R], log volume per year; ids and diagnoses."""

    def __init__(self, num: int = 24, seed: int = 0, progression: float = 1.0) -> None:
        generator = np.random.default_rng(seed)
        self.diagnoses = ["control" if index % 2 == 0 else "AD" for index in range(num)]
        self.subjects = [f"p{index:03d}" for index in range(num)]
        mean = np.array([RATES[name] for name in self.diagnoses])
        self.rates = progression * (mean + SD * generator.standard_normal(mean.shape))

    def change(self, subject: str, years: float) -> Floats:
        """True log volume change [R]."""
        return np.asarray(self.rates[self.subjects.index(subject)] * years)


def write_visits(
    folder: Path,
    people: People,
    verb: str = "simulate",
    visits: Sequence[float] = VISITS,
    noise: float = 0.02,
    volumes: bool = True,
) -> Path:
    """Scans of everybody at every visit: individual brains in which the intensity of regions follows their change.

    Without `volumes` only tables are written, which is enough where no image is compared.
    """
    plan, generator = plan_grid(SPACING_MM), np.random.default_rng(1)
    template = template_on(plan)
    labels = region_labels(plan)
    work = begin(Cohort(out=folder), verb, {})
    rows, told = [], []
    for index, subject in enumerate(people.subjects):
        own = template.t1w
        if volumes:
            own = own + 0.1 * gaussian_filter(generator.standard_normal(plan.shape), 1.0)
        for number, years in enumerate(visits):
            key, change = scan_key(subject, str(number + 1)), people.change(subject, years)
            if volumes:
                image = own + np.concatenate([[0.0], change])[labels] + noise * generator.standard_normal(plan.shape)
                image = np.clip(image, 0, 3).astype(np.float32) * template.mask
                store(folder / "volumes" / f"{key}_t1w.nii", image, plan.matrix)
                store(folder / "volumes" / f"{key}_log_jacobian.nii", np.zeros(plan.shape), plan.matrix)
            diagnosis, sex, age = people.diagnoses[index], "FM"[index % 2], 65 + index / 7 + years
            scan = (subject, str(number + 1), "a", age, sex, diagnosis, np.nan, np.nan, "evaluation", key)
            rows.append((*scan, voxel_hash(image) if volumes else f"v{key}"))
            told += [(key, name, float(np.exp(part))) for name, part in zip(REGIONS, change, strict=True)]
    columns = ["subject", "session", "site", "age_years", "sex", "diagnosis", "cdr", "mmse", "role", "key", "scan_hash"]
    table = pd.DataFrame(rows, columns=columns)
    names = pd.DataFrame({"label": range(1, len(REGIONS) + 1), "name": REGIONS})
    write_cohort(folder, plan, template.mask, labels, names, table)
    if verb == "simulate":
        truth = table[["subject", "session", "key"]].assign(condition="none", severity=0.0)
        sizes = pd.DataFrame(told, columns=["key", "region", "volume_ml"])
        (folder / "truth").mkdir()
        write_truth(folder, truth, pd.DataFrame(columns=list(TRUTH_REGIONS.columns)), sizes)
    work.finish()
    return folder


def region_labels(plan: GridPlan) -> NDArray[np.int16]:
    """Blocks of the brain, one per region [X, Y, Z]."""
    labels = np.zeros(plan.shape, dtype=np.int16)
    middle = [size // 2 for size in plan.shape]
    for number in range(len(REGIONS)):
        x = middle[0] - 5 + 2 * number
        labels[x : x + 2, middle[1] - 3 : middle[1] + 3, middle[2] - 2 : middle[2] + 3] = number + 1
    return np.asarray(labels * template_on(plan).mask, dtype=np.int16)


Guess = Callable[[str, float], Floats]
"""A person's forecast log volume change [R] after some years."""


def write_guesses(
    folder: Path,
    cohort: Path,
    people: People,
    guesses: Mapping[str, Guess],
    years: Sequence[float] = (1.0, 3.0),
    sd: float | None = None,
    images: str = "",
    start: int = 1,
    run: Path | None = None,
) -> Path:
    """A folder of forecasts from everybody's visit number `start`; the first model of `guesses` is the forecaster.

    Args:
        sd: of the Gaussian intervals around each forecast; None: no interval.
        images: "" none, "copy" the scan itself, "oracle" the later scan (of the visit at that time).
    """
    work = begin(
        Forecast(out=folder, prepared=cohort, run_folder=run),
        "forecast",
        {"prepared": cohort} | ({"run": run} if run else {}),
    )
    scans, regions = [], []
    for subject in people.subjects:
        key = scan_key(subject, str(start))
        for model, guess in guesses.items():
            for ahead in years:
                stem = f"{key}_{model}_{ahead:g}"
                scans.append((key, subject, str(start), 65.0, model, ahead, stem))
                change = guess(subject, ahead)
                for name, value in zip(REGIONS, change, strict=True):
                    ends = [
                        side * LEVEL_OF[level] * (np.nan if sd is None else sd) for level in LEVELS for side in (-1, 1)
                    ]
                    regions.append((key, model, ahead, name, value, sd, *(value + end for end in ends)))
                if images and model == next(iter(guesses)):
                    later = scan_key(subject, str(start if images == "copy" else VISITS.index(ahead) + 1))
                    levels = read_stored(cohort / "volumes" / f"{later}_t1w.nii")
                    store(volume_path(folder, stem, "t1w"), levels, plan_grid(SPACING_MM).matrix)
    first = next(iter(guesses))
    models = pd.DataFrame({"model": list(guesses), "title": [name.replace("_", " ") for name in guesses]})
    write_forecasts(
        folder,
        pd.DataFrame(scans, columns=["key", "subject", "session", "age_years", "model", "years", "stem"]),
        pd.DataFrame(regions, columns=["key", "model", "years", "region", "log_change", "spread", *INTERVALS]),
        models.assign(floor=models["model"] != first),
    )
    work.finish()
    return folder


def nothing(subject: str, years: float) -> Floats:
    """Copying the scan forward."""
    return np.zeros(len(REGIONS))


def by_diagnosis(people: People) -> Guess:
    """The mean rate of a person's diagnosis."""

    def guess(subject: str, years: float) -> Floats:
        return years * np.array(RATES[people.diagnoses[people.subjects.index(subject)]])

    return guess


def noisy(people: People, sd: float, seed: int = 0) -> Guess:
    """What comes true with Gaussian errors of this SD (drawn per person, time and region)."""

    def guess(subject: str, years: float) -> Floats:
        generator = np.random.default_rng([seed, people.subjects.index(subject), round(100 * years)])
        return people.change(subject, years) + sd * generator.standard_normal(len(REGIONS))

    return guess


def write_judged(root: Path, num: int = 12) -> Path:
    """An evaluation of two forecasters with their floors and intervals; returns its folder."""
    people = People(num)
    cohort = write_visits(root / "visits", people, volumes=False)
    floors: dict[str, Guess] = {"copy_forward": nothing, "population_rate": by_diagnosis(people)}
    folders = [
        write_guesses(root / name, cohort, people, {name: noisy(people, sd), **floors}, sd=0.02)
        for name, sd in (("near", 0.01), ("far", 0.02))
    ]
    keys = {"forecasts": folders, "truth": cohort, "out": root / "judged", "bootstrap": 100}
    return Evaluate.model_validate(keys).run()
