"""Settings of forecasts: whose future, how far ahead, under which conditions, and by how many draws."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from gen3d.core.config import Folder, Folders, execution, waiver
from gen3d.core.work import FolderVerb
from gen3d.forecast.people import Sessions
from gen3d.models.run import OneRun

Value = int | float | str


def _horizons(value: Any) -> Any:
    """Years ahead, ascending; one number is a list of one."""
    listed = list(value) if isinstance(value, (list, tuple)) else [value]
    try:
        years = [float(year) for year in listed]
    except (TypeError, ValueError):
        raise ValueError(f"years are numbers such as [1, 3, 5], not {value!r}") from None
    if not years:
        raise ValueError("name at least one number of years ahead, for instance 'years=[1, 3, 5]'")
    if any(not math.isfinite(year) or year < 0 for year in years):
        raise ValueError(f"{min(years):g} years lie in the past or nowhere; give numbers from 0 up")
    if any(second <= first for first, second in pairwise(years)):
        raise ValueError(
            f"the years {', '.join(f'{year:g}' for year in years)} are not ascending; give each once, in order"
        )
    return years


def _conditions(tree: Any) -> Any:
    if not isinstance(tree, Mapping):
        raise ValueError("conditions are `name: value` pairs, for instance '{diagnosis: AD}'")
    for name, value in tree.items():
        if isinstance(value, bool) or not isinstance(value, (int, float, str)):
            raise ValueError(f"{name}={value!r} is neither a number nor a text; name one value per column")
    return {str(name): value for name, value in tree.items()}


def _one_or_many(value: Any) -> Any:
    return [value] if isinstance(value, (str, int)) else value


Horizons = Annotated[tuple[float, ...], BeforeValidator(_horizons)]
Conditions = Annotated[dict[str, Value], BeforeValidator(_conditions)]
Words = Annotated[tuple[str, ...], BeforeValidator(_one_or_many)]


class ForecastingVerb(FolderVerb):
    """What forecasts are told, see `gen3d.forecast.forecast.Forecast`."""

    run_folder: OneRun = Field(
        alias="run", description="run folder of a forecaster (train, model.kind=deformation_rate, ...)"
    )
    prepared: Folders = Field(
        description="prepared folders (prepare or simulate) of the people whose future is forecast"
    )
    maps: Folder | None = Field(
        None,
        description="maps of these scans by a norm (anomaly norm=...): shows regions, today and forecast, on the curves of healthy "
        "people",
    )
    years: Horizons = Field((1.0, 3.0, 5.0), description="years ahead, ascending; 0 is the scan itself")
    condition: Conditions = Field(
        default_factory=dict,
        description="columns set to another value than the person's, name: value, for instance '{diagnosis: AD}': what if",
    )
    samples: int = Field(
        16, ge=0, description="draws per member of a model that draws; their SD is the spread; 0: none"
    )
    sessions: Sessions = Field(
        "last",
        description="forecast from the last visit of a person, or from every visit; earlier ones are known as past",
    )
    subjects: Words = Field((), description="ids of the people to forecast; default: everybody whom a member never saw")
    floors: bool = Field(True, description="also forecast by the floors that were fitted on the same people: tables")
    floors_volumes: bool = Field(False, description="also write volumes of the floors")
    extrapolate: bool = waiver(
        False,
        "allow horizons and conditions beyond those of the training people; intervals are not available there",
        waives=(True,),
    )
    pictures: int = Field(24, ge=0, description="people with pictures, in the order of the table; 0: none")
    device: Literal["auto", "cpu", "cuda"] = execution("auto", "auto takes a GPU if there is one")
    workers: int = execution(1, "scans forecast at a time, each in a process; 0: one per core", ge=0)
