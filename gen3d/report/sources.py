"""The finished folders a report is made from, recognised by the verb that wrote them and opened for reading."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import yaml
from numpy.typing import NDArray

from gen3d.cohort.folder import Prepared, open_prepared
from gen3d.cohort.manifest import is_control
from gen3d.core.artefact import Artefact, read
from gen3d.core.errors import UserError
from gen3d.figures.brain import Space
from gen3d.imaging.plan import GridPlan
from gen3d.imaging.template import template_on
from gen3d.models import registry
from gen3d.report.folders import NULL, Change, Evaluation, Latents, Maps, Quality, Reconstructed, Run, Synthetic
from gen3d.report.results import Harmonised, Head, Predicted, Strata

VERBS = (
    *("prepare", "simulate", "train", "encode", "reconstruct", "anomaly", "change", "sample", "quality", "evaluate"),
    *("classify", "stratify", "harmonise", "predict"),
)
AND = " and "
"""Between the models of maps that several runs made together."""


@dataclass(frozen=True)
class Sources:
    """Everything that was given, by what it is."""

    artefacts: tuple[Artefact, ...]
    prepared: Prepared | None
    runs: tuple[Run, ...]
    maps: tuple[Maps, ...]
    latents: tuple[Latents, ...]
    reconstructed: tuple[Reconstructed, ...]
    evaluations: tuple[Evaluation, ...]
    changes: tuple[Change, ...] = ()
    synthetic: tuple[Synthetic, ...] = ()
    qualities: tuple[Quality, ...] = ()
    heads: tuple[Head, ...] = ()
    strata: tuple[Strata, ...] = ()
    harmonised: tuple[Harmonised, ...] = ()
    predicted: tuple[Predicted, ...] = ()

    @cached_property
    def cohort(self) -> pd.DataFrame:
        """The cohort table: of the prepared folders, or what the other folders know of it."""
        if self.prepared is not None:
            return self.prepared.manifest
        tables = [maps.subjects for maps in self.maps] + [latents.table for latents in self.latents]
        return (
            tables[0]
            if tables
            else pd.DataFrame(columns=["key", "subject", "diagnosis", "role", "site", "sex", "age_years"])
        )

    @cached_property
    def controls(self) -> tuple[str, ...]:
        """Diagnosis codes that mean healthy control in this cohort."""
        frame = self.cohort
        return tuple(sorted(set(frame.loc[is_control(frame), "diagnosis"].astype(str)))) if len(frame) else ()

    @cached_property
    def groups(self) -> tuple[str, ...]:
        """Diagnoses, controls first, then by how many people they have."""
        used = self.cohort[self.cohort["role"] != "excluded"]
        counts = used["diagnosis"].astype(str).value_counts()
        return tuple(
            sorted(counts.index, key=lambda code: (code not in self.controls, code == NULL, -counts[code], code))
        )

    @cached_property
    def plan(self) -> GridPlan:
        """The grid of all maps: of the prepared folder, else read off the first map."""
        if self.prepared is not None:
            return self.prepared.plan
        for maps in self.maps:
            for path in sorted((maps.artefact.folder / "maps").glob("*_zmap.nii.gz")):
                image: Any = nib.load(path)
                rows = tuple((float(a), float(b), float(c), float(d)) for a, b, c, d in image.affine)
                first, second, third = (int(side) for side in image.shape)
                return GridPlan(spacing_mm=abs(rows[0][0]), shape=(first, second, third), affine=rows)
        raise UserError("the inputs hold neither a prepared folder nor a map, so the grid is unknown; add prepared.")

    @cached_property
    def space(self) -> Space:
        mask = self.prepared.mask if self.prepared is not None else template_on(self.plan).mask
        return Space(self.plan.matrix, np.asarray(mask, dtype=bool))

    @cached_property
    def template_t1w(self) -> NDArray[np.float32]:
        return template_on(self.plan).t1w

    def anatomy(self, key: str) -> tuple[NDArray[np.float32], bool]:
        """A person's own T1w on the grid and True, or the template and False."""
        known = self.prepared is not None and key in set(self.prepared.manifest["key"])
        if self.prepared is not None and known and self.prepared.path(key, "t1w").is_file():
            return self.prepared.volume(key, "t1w"), True
        return self.template_t1w, False


def open_sources(folders: Sequence[Path]) -> Sources:
    """Recognise and open finished folders, in any order.

    Raises:
        UserError: a folder that no verb of gen3d finished, or of a verb that a report has no section for.
    """
    artefacts = tuple(read(folder, VERBS) for folder in folders)
    by_verb = {verb: [artefact for artefact in artefacts if artefact.verb == verb] for verb in VERBS}
    runs = by_verb["train"]
    kinds = {run.key: model_kind(run_config(run.folder)) for run in runs}
    prepared = [artefact.folder for artefact in artefacts if artefact.verb in ("prepare", "simulate")]
    given = {run.key: run.folder for run in runs}
    maps = tuple(Maps(item, name, _learned(item, given)) for item, name in _named(by_verb["anomaly"], kinds))
    return Sources(
        artefacts=artefacts,
        prepared=open_prepared(prepared) if prepared else None,
        runs=tuple(Run(run, name) for run, name in _named(runs, kinds)),
        maps=maps,
        latents=tuple(Latents(item, name) for item, name in _named(by_verb["encode"], kinds)),
        reconstructed=tuple(Reconstructed(item, name) for item, name in _named(by_verb["reconstruct"], kinds)),
        evaluations=tuple(Evaluation(item, item.folder.name) for item in by_verb["evaluate"]),
        synthetic=tuple(Synthetic(item, item.folder.name) for item in by_verb["sample"]),
        qualities=tuple(Quality(item, item.folder.name) for item in by_verb["quality"]),
        changes=tuple(Change(item, _name_of_maps(item, maps)) for item in by_verb["change"]),
        heads=tuple(Head(item, name) for item, name in _by_folder(by_verb["classify"])),
        strata=tuple(Strata(item, name) for item, name in _by_folder(by_verb["stratify"])),
        harmonised=tuple(Harmonised(item, name) for item, name in _by_folder(by_verb["harmonise"])),
        predicted=tuple(Predicted(item, name) for item, name in _by_folder(by_verb["predict"])),
    )


def _by_folder(artefacts: Sequence[Artefact]) -> list[tuple[Artefact, str]]:
    """Each artefact with its folder's name; the folder above is added where two would be called the same."""
    names = [artefact.folder.name for artefact in artefacts]
    return [
        (artefact, name if names.count(name) == 1 else f"{artefact.folder.parent.name}/{name}")
        for artefact, name in zip(artefacts, names, strict=True)
    ]


def run_config(folder: Path) -> dict[str, Any]:
    """The settings in a run folder, {} where there are none."""
    path = folder / "config.yaml"
    tree = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return tree if isinstance(tree, dict) else {}


def model_kind(config: dict[str, Any]) -> str:
    """The kind of model in a run's settings, "" where it cannot be told."""
    model = config.get("model", config)
    return str(model.get("kind", "")) if isinstance(model, dict) else ""


def _runs_behind(artefact: Artefact) -> list[dict[str, Any]]:
    """The runs that a folder was made with, as its record describes them."""
    return [item for items in artefact.inputs.values() for item in items if item.get("verb") == "train"]


def _learned(artefact: Artefact, given: dict[str, Path]) -> tuple[str, ...] | None:
    """Channels of the volumes that the runs behind maps learned (all the same), None where they cannot be read."""
    for item in _runs_behind(artefact):
        channels = run_config(given.get(item["key"], Path(item["path"]))).get("channels")
        if isinstance(channels, list):
            return tuple(str(name) for name in channels)
    return None


def _named(artefacts: Sequence[Artefact], kinds: dict[str, str]) -> list[tuple[Artefact, str]]:
    """Each artefact with the name of its model; the folder's name is added where two would be called the same."""
    names = [_model_name(artefact, kinds) for artefact in artefacts]
    return [
        (artefact, name if names.count(name) == 1 else f"{name}, {artefact.folder.name}")
        for artefact, name in zip(artefacts, names, strict=True)
    ]


def _name_of_maps(artefact: Artefact, maps: Sequence[Maps]) -> str:
    """The name of the maps that a folder was made from, or its own where they are not among the inputs."""
    keys = {str(item["key"]) for item in artefact.inputs.get("maps", [])}
    return next((given.name for given in maps if given.artefact.key in keys), artefact.folder.name)


def _model_name(artefact: Artefact, kinds: dict[str, str]) -> str:
    if artefact.verb == "train":
        kind = kinds.get(artefact.key, "")
    else:
        found = [
            kinds.get(item["key"], "") or model_kind(run_config(Path(item["path"]))) for item in _runs_behind(artefact)
        ]
        return AND.join(registry.title(kind) for kind in found) if found and all(found) else artefact.folder.name
    return registry.title(kind) or artefact.folder.name


def is_baseline(name: str) -> bool:
    """Whether a model of this name (its kind in words, a folder's name after a comma) is a baseline, or all of several are."""
    kinds = name.split(",")[0].split(AND)
    baselines = {
        name for kind, entry in registry.KINDS.items() if entry.baseline for name in (kind, entry.title.lower())
    }
    return all(kind.lower() in baselines for kind in kinds)
