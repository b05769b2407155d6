"""The models that a server offers: finished folders of norms, heads, networks, forecasters and chains, each by its own opener.

A norm says how scans are prepared and judges whether one is like the people behind it, so every model of volumes needs a norm
of its grid. A head, or a fusion of latents, needs the run that makes them. Attribution of a classifier needs a prepared folder
of people to compare with; nothing else of these folders holds images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from gen3d.anomaly.norm.folder import NormFolder, open_norm
from gen3d.classify.folder import HEAD
from gen3d.classify.head_folder import open_heads
from gen3d.cohort.folder import PLAN
from gen3d.cohort.folder import VERBS as COHORTS
from gen3d.cohort.forecast_errors import read_errors
from gen3d.cohort.fusion_folder import IMAGES
from gen3d.cohort.scores_folder import read_scores
from gen3d.core import words
from gen3d.core.artefact import RECORD, Artefact, read
from gen3d.core.errors import UserError
from gen3d.imaging.plan import GridPlan, read_plan
from gen3d.models import registry
from gen3d.models.run_folder import RUN_VERBS, TRAIN, model_kind, read_settings

Kind = Literal["norm", "head", "encoder", "forecaster", "chain", "classifier", "fusion", "reference"]
TITLES: dict[str, str] = {
    "norm": "Norm",
    "head": "Classifier on latents",
    "encoder": "Encoder of latents",
    "forecaster": "Forecast",
    "chain": "Chain of stages",
    "classifier": "Classifier of scans",
    "fusion": "Fusion of genetics and scan",
    "reference": "People to compare with",
}
MOST_FOLDERS = 200
"""Finished folders that are looked at; more are a whole project, not a folder of models."""


@dataclass(frozen=True)
class ServedModel:
    """One folder: what it is, its place below the folder of models as its name, and what it needs of an upload.

    `target` and `classes` are of what is predicted or sent along; `partners` are other models that it needs; `norm` is the
    opened norm; `longest` is the longest horizon of a forecaster, years; `takes_age` is whether a classifier reads the age beside
    the scan.
    """

    kind: Kind
    name: str
    artefact: Artefact
    plan: GridPlan
    words: str
    target: str = ""
    classes: tuple[str, ...] = ()
    partners: tuple[ServedModel, ...] = ()
    norm: NormFolder | None = field(default=None, repr=False)
    longest: float = 0.0
    takes_age: bool = False

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return self.artefact.folder

    @property
    def takes_slices(self) -> bool:
        """Whether its scans are slices as they came, not aligned volumes."""
        return self.plan.degrees_of_freedom == 0

    @property
    def sites(self) -> tuple[str, ...]:
        """Sites that a norm can judge."""
        if self.norm is None:
            return ()
        group = self.norm.record.controls
        return tuple(sorted({site for site in group.gate.num_controls if group.is_open(site)} | set(group.adapted)))

    @property
    def needs(self) -> str:
        """What of an upload it needs, in words."""
        age = "the age; " if self.takes_age else ""
        told = {
            "norm": "age, sex and site" if self.sites not in ((), ("",)) else "age and sex",
            "chain": f"the stage today ({self.target})",
            "classifier": f"{age}for attribution the known {self.target} and people to compare with",
            "forecaster": "age and sex",
        }.get(self.kind, "")
        of_models = [f"the folder {partner.name}" for partner in self.partners]
        return words.listed([*filter(None, [told]), *of_models]) if told or of_models else "the scan alone"


@dataclass(frozen=True)
class ServedModels:
    """All models, those of one kind and grid by name."""

    folder: Path
    all: tuple[ServedModel, ...]

    def of(self, kind: Kind, plan_key: str | None = None) -> tuple[ServedModel, ...]:
        """Models of a kind, of one grid if it is named."""
        return tuple(m for m in self.all if m.kind == kind and plan_key in (None, m.plan.key))

    @property
    def takes_volumes(self) -> bool:
        """Whether any model reads volumes."""
        return any(not model.takes_slices for model in self.all)

    @property
    def takes_slices(self) -> bool:
        """Whether a chain reads slice images."""
        return any(model.takes_slices and model.kind == "chain" for model in self.all)

    @property
    def sites(self) -> tuple[str, ...]:
        """Sites that any norm can judge."""
        return tuple(sorted({site for model in self.all for site in model.sites}))

    @property
    def labels(self) -> dict[str, tuple[str, ...]]:
        """Columns that chains and attribution need to know of a person, with the names that each may have."""
        found: dict[str, list[str]] = {}
        for model in self.all:
            if model.kind in ("chain", "classifier") and model.target not in ("sex", "age_years", ""):
                found.setdefault(model.target, []).extend(model.classes)
        return {name: tuple(dict.fromkeys(values)) for name, values in found.items()}


def open_models(folder: Path) -> ServedModels:
    """Open every model below a folder.

    Raises:
        UserError: no such folder, no model, a damaged one, or one without what it needs.
    """
    if not folder.is_dir():
        raise UserError(
            f"{folder}: no such folder; models= is a folder of finished norms, heads, networks, forecasters and chains."
        )
    artefacts = [read(place) for place in _finished(folder)]
    names = {item.folder: item.folder.relative_to(folder).as_posix() for item in artefacts}
    found: list[ServedModel] = []
    for item in sorted(artefacts, key=_reads_latents):  # these need the runs that make their latents
        model = _opened(item, names[item.folder] if item.folder != folder else folder.name, found)
        found += [] if model is None else [model]
    if not any(model.kind in ("norm", "chain") for model in found):
        held = (
            f"holds {words.listed(sorted({TITLES[m.kind].lower() for m in found}))} alone"
            if found
            else "holds no model"
        )
        raise UserError(
            f"{folder}: {held}; copy a norm there (gen3d norm prepared=... run=... out={folder / 'norm'}), for a norm says how "
            "scans are prepared and whom they are compared with."
        )
    _require_norms(found)
    return ServedModels(folder, tuple(_with_people(model, found) for model in found))


def _finished(folder: Path) -> list[Path]:
    """Folders with a record, not those below another one: a norm holds copies of its runs."""
    places: list[Path] = []
    for record in sorted(folder.rglob(RECORD), key=lambda path: len(path.parts)):
        if not any(place in record.parents for place in places):
            places.append(record.parent)
        if len(places) > MOST_FOLDERS:
            raise UserError(f"{folder}: holds more than {MOST_FOLDERS} finished folders; copy the models alone there.")
    return sorted(places)


def _reads_latents(artefact: Artefact) -> bool:
    """Whether it may read latents: a head, or a fusion."""
    return artefact.verb == "classify" or (artefact.verb == TRAIN and model_kind(artefact.folder) == "fusion")


def _opened(artefact: Artefact, name: str, found: Sequence[ServedModel]) -> ServedModel | None:
    """The model in a folder, None for a folder that is none; `found` are those that were opened before."""
    place = artefact.folder
    if artefact.verb == "norm":
        norm = open_norm(place)
        norm.require_whole()
        norm.plan.require_registration(str(place))
        told = f"{norm.record.covariates.num_people} controls; {', '.join(norm.map_channels)}"
        return ServedModel("norm", name, artefact, norm.plan, told, norm=norm)
    if artefact.verb == "classify":
        return _head(place, name, artefact, found)
    if artefact.verb in COHORTS:
        plan = read_plan(place / PLAN)
        return ServedModel("reference", name, artefact, plan, plan.describe())
    if _reads_latents(artefact):
        return _fusion(place, name, artefact, found)
    return _run(place, name, artefact) if artefact.verb in RUN_VERBS else None


def _head(place: Path, name: str, artefact: Artefact, found: Sequence[ServedModel]) -> ServedModel:
    head = open_heads(place / HEAD).first
    if len(head.made_by) != 1 or any(item.get("verb") != "encode" for item in artefact.inputs.get("latents", [])):
        raise UserError(
            f"{place}: a head of latents of several runs, or of harmonised ones; give one of the latents of one run."
        )
    encoder, target = _maker(place, head.made_by[0], found), head.target
    return ServedModel("head", name, artefact, encoder.plan, target.describe(), target.name, target.classes, (encoder,))


def _maker(place: Path, key: str, found: Sequence[ServedModel]) -> ServedModel:
    """The run that makes the latents which a model reads."""
    encoder = next((model for model in found if model.artefact.key == key), None)
    if encoder is None:
        raise UserError(
            f"{place}: needs the run {key} that makes its latents; copy that run's folder below the models too."
        )
    return encoder


def _fusion(place: Path, name: str, artefact: Artefact, found: Sequence[ServedModel]) -> ServedModel:
    """Predicts by the scan alone, for nobody uploads genetics; one of latents like a head, one of regions like a network."""
    target, sides = read_scores(place).target, IMAGES.read(place)
    words = f"{target.describe()}, by the scan alone"
    if "made_by" in sides.columns:
        encoder = _maker(place, str(sides["made_by"].iloc[0]), found)
        return ServedModel("head", name, artefact, encoder.plan, words, target.name, target.classes, (encoder,))
    return ServedModel("fusion", name, artefact, read_plan(place / PLAN), words, target.name, target.classes)


def _run(place: Path, name: str, artefact: Artefact) -> ServedModel | None:
    kind, plan = model_kind(place), read_plan(place / PLAN)
    title = registry.title(kind)
    if kind == "transition":
        model = read_settings(place)["model"]
        stages = tuple(str(stage) for stage in model["classes"])
        if not plan.degrees_of_freedom and 1 not in plan.shape:
            raise UserError(
                f"{place}: learned from {min(plan.shape)} slices of a person, and an upload is one; train a chain on one slice of "
                "each person (prepare-slices num_slices=1), or on volumes."
            )
        return ServedModel("chain", name, artefact, plan, " to ".join(stages), str(model["target"]), stages)
    if kind == "classifier":
        target = read_scores(place).target
        return ServedModel(
            "classifier",
            name,
            artefact,
            plan,
            target.describe(),
            target.name,
            target.classes,
            takes_age=bool(read_settings(place)["model"]["network"].get("age", False)),
        )
    if registry.forecasts(kind):
        longest = float(read_errors(place)["years"].max())
        return ServedModel("forecaster", name, artefact, plan, f"{title}, up to {longest:.1f} years", longest=longest)
    return ServedModel("encoder", name, artefact, plan, title)


def _require_norms(found: Sequence[ServedModel]) -> None:
    """Refuse a model of volumes whose grid no norm has.

    Raises:
        UserError: naming it.
    """
    grids = {model.plan.key for model in found if model.kind == "norm"}
    for model in found:
        judges = model.kind in ("head", "forecaster", "chain", "classifier", "fusion") and not model.takes_slices
        if judges and model.plan.key not in grids:
            raise UserError(
                f"{model.folder}: needs a norm of its grid ({model.plan.describe()}), which says how scans are prepared and "
                "whom they are like; make one of its controls: gen3d norm prepared=... run=... "
                f"out={model.folder.parent / 'norm'}."
            )


def _with_people(model: ServedModel, found: Sequence[ServedModel]) -> ServedModel:
    """A classifier with the people that its attribution compares with; any other model as it is."""
    if model.kind != "classifier":
        return model
    return replace(model, partners=tuple(m for m in found if m.kind == "reference" and m.plan.key == model.plan.key))
