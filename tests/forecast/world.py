"""People with several visits on the template's own scan, and a forecaster whose rates are known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from gen3d.cohort.coding import Coding
from gen3d.cohort.folder import VERDICTS, open_prepared, write_cohort
from gen3d.cohort.forecast_errors import ERRORS, write_errors
from gen3d.cohort.manifest import scan_key
from gen3d.cohort.regions import find, region_table, regions_on
from gen3d.cohort.seen import SeenBy
from gen3d.core.artefact import read, write_json
from gen3d.forecast.forecast import Forecast
from gen3d.forecast.one_scan import _OPENED
from gen3d.imaging.deformation import exponential, log_jacobian, velocity_from_divergence, warp
from gen3d.imaging.plan import plan_grid
from gen3d.imaging.template import template_on
from gen3d.imaging.volume import store
from gen3d.maths.design import Design
from gen3d.models.base import Statistics
from gen3d.models.forecast.base import Forecaster, Future, KnownVisits
from gen3d.models.forecast.loading import FLOORS, ForecasterRun
from gen3d.models.forecast.settings import ForecastConfig
from gen3d.models.run import Run
from tests.sealing import reseal
from tests.world import write_record

PLAN = plan_grid(4.0)
NAME = "deformation_rate"
RATES = {"hippocampus": -0.04, "lateral ventricle": 0.06}
"""Log volume per year of AD; a third of it of everybody else."""

NUM_PEOPLE, NUM_FOLLOWED, LONGEST = 4, 24, 5.0
SPREAD, ERROR_SD = 0.01, 0.02
YEARS = (0.0, 1.0, 3.0)


class KnownRate(Forecaster):
    """Regions change at known rates, through one stationary velocity; draws differ by a factor of the rate."""

    def __init__(self, statistics: Statistics, share: float = 1.0, draws: bool = True) -> None:
        super().__init__(statistics)
        self.share = share
        self.draws_samples = draws

    def futures(self, known: KnownVisits, years: Sequence[float], draw: int | None = None) -> list[Future]:
        """The scan moved along the velocity."""
        factor = self.share * (1.0 if str(known.columns["diagnosis"]) == "AD" else 1 / 3)
        if draw is not None and self.draws_samples:
            factor *= 1 + 0.2 * float(np.random.default_rng([draw, len(known.key)]).standard_normal())
        divergence = sum(rate * np.isin(known.labels, find(name)) for name, rate in RATES.items())
        velocity = velocity_from_divergence(factor * np.asarray(divergence, np.float32))
        return [self._moved(known, velocity * np.float32(year)) for year in years]

    def _moved(self, known: KnownVisits, velocity: np.ndarray) -> Future:
        change = log_jacobian(exponential(velocity))
        labels, ratio = known.labels.ravel(), np.exp(change.astype(np.float64))
        num = len(region_table())
        volume = np.bincount(labels, minlength=num + 1)[1:]
        then = np.bincount(labels, weights=ratio.ravel(), minlength=num + 1)[1:]
        with np.errstate(divide="ignore", invalid="ignore"):
            regions = np.where(volume > 0, np.log(then / volume), np.nan)
        return Future(warp(known.volume("t1w"), exponential(-velocity)), change, regions)


def write_people(folder: Path, num: int = NUM_PEOPLE, diagnoses: Sequence[str] = ("CN", "AD")) -> Path:
    """A finished folder of simulate: everybody has the template's scan; the first person three visits, the second two."""
    template, rows = template_on(PLAN), []
    for number in range(num):
        for place in range({0: 3, 1: 2}.get(number, 1)):
            key = scan_key(f"p{number}", str(place + 1))
            store(folder / "volumes" / f"{key}_t1w.nii", template.t1w, PLAN.matrix)
            store(folder / "volumes" / f"{key}_log_jacobian.nii", 0 * template.t1w, PLAN.matrix)
            write_json(
                folder / "transforms" / f"{key}.json", {"affine_template_to_scan": np.eye(4).tolist(), "scan": ""}
            )
            group = diagnoses[number % len(diagnoses)]
            rows.append((f"p{number}", str(place + 1), "a", 70.0 + number + 1.5 * place, "FM"[number % 2], group, key))
    frame = pd.DataFrame(rows, columns=["subject", "session", "site", "age_years", "sex", "diagnosis", "key"])
    frame = frame.assign(role="evaluation", cdr=np.nan, mmse=np.nan)
    write_cohort(folder, PLAN, template.mask, regions_on(PLAN), region_table(), frame)
    VERDICTS.write(folder, pd.DataFrame({"key": frame["key"], "source": "", "verdict": "keep", "reason": ""}))
    write_record(folder, "simulate")
    return reseal(folder)


def errors_of(
    seed: int = 0, skill: bool = True, num: int = NUM_FOLLOWED, years: Sequence[float] = (1.0, 3.0, LONGEST)
) -> pd.DataFrame:
    """Errors of people whom nobody saw: the model errs by ERROR_SD, copying forward by the whole change; without skill both do."""
    generator, names, rows = np.random.default_rng(seed), list(region_table()["name"]), []
    rates = np.array([next((r for n, r in RATES.items() if name.endswith(n)), 0.0) for name in names])
    for number in range(num):
        ill = number % 2
        for place, year in enumerate(years):
            change = rates * year * (1 if ill else 1 / 3)
            observed = change + ERROR_SD * generator.standard_normal(len(names))
            for name in (NAME, *FLOORS):
                share = {NAME: 1.0 if skill else 0.0, "copy_forward": 0.0}.get(name, 0.8 if skill else 0.0)
                spread = SPREAD if name == NAME else 0.0
                start = (
                    f"f{number}",
                    f"f{number}_1",
                    f"f{number}_{place + 2}",
                    year,
                    "AD" if ill else "CN",
                    name,
                    number % 2,
                )
                rows += [(*start, region, share * change[i], spread, observed[i]) for i, region in enumerate(names)]
    return pd.DataFrame(rows, columns=list(ERRORS.columns))


def write_run(
    folder: Path, cohort: Path, seen: Sequence[Sequence[str]] = ((), ()), errors: pd.DataFrame | None = None
) -> Path:
    """The record and the errors of a run; its models are made by `known_run`."""
    folder.mkdir(parents=True)
    write_errors(folder, errors_of() if errors is None else errors)
    write_json(folder / "seen.json", {"seen": [list(names) for names in seen]})
    write_record(folder, "train", {"prepared": [cohort]})
    return reseal(folder)


def known_run(
    cohort: Path, draws: bool = True, seen: Sequence[Sequence[str]] = ((), ())
) -> Callable[..., ForecasterRun]:
    """What stands for `open_forecasters`: two members with known rates, and floors that know a share of them."""
    table = open_prepared(cohort).manifest
    coding = Coding.fit(table, ["age_years", "sex", "diagnosis"])
    config = ForecastConfig(kind=NAME, coding=coding.to_dict(), longest_years=LONGEST)
    zero, one = np.zeros(2, np.float32), np.ones(2, np.float32)
    statistics = Statistics(zero, one, template_on(PLAN).mask)
    shares = {"copy_forward": 0.0, "population_rate": 0.5, "region_rate": 0.8}

    def opening(folder: Path, device: str = "cpu") -> ForecasterRun:
        saw = tuple(SeenBy.rows(table[table["subject"].isin(list(names))], "train").members[0] for names in seen)
        members = {number: KnownRate(statistics, 1.0, draws) for number in range(len(seen))}
        design = Design.fit([60.0, 70.0], ["F", "M"], ["a", "a"], ())
        run = Run(
            folder,
            read(folder),
            PLAN,
            ("t1w", "log_jacobian"),
            config,
            design,
            SeenBy(saw),
            torch.device("cpu"),
            dict(members),
        )
        floors = {(n, name): KnownRate(statistics, share, False) for n in members for name, share in shares.items()}
        return ForecasterRun(run, dict(floors))

    return opening


def forecasting(monkeypatch: pytest.MonkeyPatch, root: Path, **options: Any) -> Callable[..., Forecast]:
    """A function of settings that makes the verb, on people and a run below `root`."""
    seen = options.pop("seen", ((), ()))
    cohort = write_people(root / "cohort", diagnoses=options.pop("diagnoses", ("CN", "AD")))
    write_run(root / "run", cohort, seen, options.pop("errors", None))
    monkeypatch.setattr("gen3d.forecast.one_scan.open_forecasters", known_run(cohort, seen=seen, **options))
    _OPENED.clear()

    def verb(**keys: Any) -> Forecast:
        given = {
            "run": root / "run",
            "prepared": cohort,
            "out": root / "future",
            "years": YEARS,
            "samples": 4,
            "workers": 1,
        }
        return Forecast.model_validate({**given, **keys})

    return verb


def write_forecasts(root: Path) -> Path:
    """A finished folder of `gen3d forecast` below `root`, of the known forecaster and its people."""
    with pytest.MonkeyPatch.context() as patch:
        return forecasting(patch, root)(subjects=["p1"], years=[1]).run()
