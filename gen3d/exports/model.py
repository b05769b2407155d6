"""`gen3d export-model`: a run's networks as files that are used without Python."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
import torch
from pydantic import BeforeValidator, Field
from torch import Tensor, nn

from gen3d import __version__
from gen3d.cohort.folder import Prepared, open_prepared
from gen3d.cohort.seen import identities
from gen3d.core.artefact import write_json
from gen3d.core.config import Folders
from gen3d.core.disk import size_in_words
from gen3d.core.errors import UserError
from gen3d.core.output_folder import Work
from gen3d.core.progress import say, track
from gen3d.core.work import FolderVerb, Identity
from gen3d.exports.folder import (
    FORMAT,
    MASK,
    MODEL,
    ONNX,
    PACKAGE,
    PREDICTIONS,
    VOLUMES,
    member_path,
    volume_path,
    write_floats,
    write_index,
)
from gen3d.exports.model_compiled import (
    CHECK_AGE_YEARS,
    Check,
    Scorer,
    compile_package,
    onnx_scorer,
    package_scorer,
    require_compiler,
    require_onnx,
    write_onnx,
)
from gen3d.exports.model_networks import Exported, open_exported, scores_of
from gen3d.models.run import OneRun, load_run
from gen3d.models.supervised.classifier import Classifier

Format = Literal["compiled", "onnx"]

_many = BeforeValidator(lambda value: [value] if isinstance(value, (str, int)) else value)
MAKERS: dict[str, tuple[str, Callable[[nn.Module, Check, Path], None], Callable[[Path], Scorer]]] = {
    "compiled": (PACKAGE, compile_package, package_scorer),
    "onnx": (ONNX, write_onnx, onnx_scorer),
}
"""By format: the file's name, what writes it, what opens it."""

DESCRIBED = {"compiled": "package", "onnx": "onnx"}
"""What model.json calls them."""


class ExportModel(FolderVerb):
    """Export networks for use without Python: compiled ahead of time by torch, and as ONNX.

    Of a classifier every member that was trained on true labels is exported, with the place of its view, the intensity rule,
    its classes, and a calibration fitted on the people that only watched its training. Of an autoencoder the encoder is
    exported. Each file is compared with the network it was made from, for one and for three views at once, and again whenever
    it is opened; the largest difference is in model.json. A compiled package runs with the torch that made it, on
    processors of the kind that it was made on; ONNX runs anywhere.

    With prepared=, scans are written as raw numbers for programs that read no NIfTI, each with the members that never saw
    its person, beside what the network of Python says of it. The C++ program in gen3d/exports/cpp reads both.
    """

    run_folder: OneRun = Field(alias="run", description="run folder (train) of a classifier, or of an autoencoder")
    members: Annotated[tuple[int, ...], _many] | None = Field(
        None, description="numbers of the members to export; default: all that were trained on true labels"
    )
    formats: Annotated[tuple[Format, ...], _many] = Field(
        ("compiled", "onnx"), min_length=1, description="compiled (needs a C++ compiler), onnx, or both"
    )
    prepared: Folders | None = Field(None, description="prepared folders of scans to write as raw numbers")
    scans: Annotated[tuple[str, ...], _many] = Field(
        (), description="keys of these scans; default: all that were not excluded"
    )

    def plan(self) -> list[str]:
        """What would be exported."""
        material = self.open_inputs()
        num, shape = len(material.exported.members), material.exported.run.plan.shape
        room = 4 * len(material.exported.run.channels) * int(np.prod(shape)) * len(material.scans)
        scans = f", and {len(material.scans)} scans ({size_in_words(room)})" if self.prepared else ""
        return [f"exports {num} networks as {' and '.join(self.formats)}{scans}", f"writes {self.out}"]

    def identity(self, opened: Callable[[], Any]) -> Identity:
        """The run, the scans, and what compiles."""
        read = {"run": self.run_folder} | ({"prepared": self.prepared} if self.prepared else {})
        return Identity(read, {"torch": torch.__version__, "cpu": torch.backends.cpu.get_cpu_capability()})

    def open_inputs(self) -> ExportedMaterial:
        """The members, and the scans on their grid."""
        if "compiled" in self.formats:
            require_compiler()
        if "onnx" in self.formats:
            require_onnx()
        run = load_run(self.run_folder)
        exported = open_exported(run, self.members)
        if self.prepared is None:
            if self.scans:
                raise UserError("scans= names scans of prepared=, which is not given.")
            return ExportedMaterial(exported, None, pd.DataFrame())
        prepared = open_prepared(self.prepared)
        run.require(prepared)
        table = prepared.manifest[prepared.manifest["role"] != "excluded"].reset_index(drop=True)
        absent = [key for key in self.scans if key not in set(table["key"])]
        if absent:
            raise UserError(
                f"{self.prepared[0]}: holds no scan {absent[0]} that was not excluded; see its manifest.tsv."
            )
        everybody = identities(table)
        table["members"] = [[i for i in run.seen.blind_to(person) if i in exported.members] for person in everybody]
        return ExportedMaterial(exported, prepared, table[table["key"].isin(self.scans)] if self.scans else table)

    def write(self, work: Work, opened: ExportedMaterial) -> dict[str, Any]:
        """Write the networks, their description, and the scans."""
        exported = opened.exported
        members = [self._write_member(exported, member) for member in track(exported.members, "compiling")]
        mask = exported.run.member(exported.members[0]).brain_mask
        write_floats(self.out / MASK, mask.numpy())
        write_json(self.out / MODEL, described(exported) | {"members": members})
        if opened.prepared is not None:
            self._write_scans(opened)
        worst = max(entry[DESCRIBED[name]]["difference"] for entry in members for name in self.formats)
        num = len(opened.scans)
        say(
            f"{self.out}: {len(members)} networks as {' and '.join(self.formats)}, {num} scans; largest difference {worst:.1e}."
        )
        return {
            "num_members": len(members),
            "formats": list(self.formats),
            "num_scans": num,
            "largest_difference": worst,
        }

    def _write_member(self, exported: Exported, member: int) -> dict[str, Any]:
        """The files of one member, and what model.json says of them."""
        network = exported.network(member)
        check = Check.of(network, len(exported.run.channels), exported.window[1], exported.takes_age)
        entry: dict[str, Any] = dict.fromkeys(DESCRIBED.values()) | {"member": member}
        for name in self.formats:
            file, make, opening = MAKERS[name]
            path = member_path(self.out, member, file)
            if not path.is_file():
                make(network, check, path)
            difference = check.difference(opening(path), path)
            with path.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            entry[DESCRIBED[name]] = {
                "file": str(path.relative_to(self.out)),
                "sha256": digest,
                "difference": difference,
            }
        centre, spread = exported.label(member)
        return entry | {
            "calibration": exported.calibration(member).record(),
            "label": {"mean": centre, "std": spread},
            "check_scores": check.scores[:1].double().tolist(),
            "tolerance": check.tolerance,
        }

    def _write_scans(self, material: ExportedMaterial) -> None:
        """The raw volumes, their index, and what the network of Python says of them."""
        exported, prepared, listed, said = material.exported, material.prepared, [], []
        assert prepared is not None
        for _, row in track(list(material.scans.iterrows()), "scans"):
            key = str(row["key"])
            volume = prepared.load([key], exported.run.channels)
            path = volume_path(self.out, key)
            if not path.is_file():
                write_floats(path, volume[0])
            age = float(row["age_years"]) if np.isfinite(row["age_years"]) else None
            listed.append({"key": key, "file": path.name, "age_years": age, "members": row["members"]})
            if row["members"]:
                scores = [_scores(exported, member, torch.from_numpy(volume), age) for member in row["members"]]
                said.append(exported.answer(key, row["members"], scores))
        shape = (len(exported.run.channels), *exported.run.plan.shape)
        write_index(self.out / VOLUMES, shape, exported.run.channels, listed)
        write_json(self.out / VOLUMES / PREDICTIONS, {"scans": said})


@dataclass(frozen=True)
class ExportedMaterial:
    """The members, and the scans to write, each with the exported `members` that never saw the person."""

    exported: Exported
    prepared: Prepared | None
    scans: pd.DataFrame


def described(exported: Exported) -> dict[str, Any]:
    """What model.json says of all members."""
    run, target = exported.run, exported.target
    start, size = exported.window
    kind = exported.scores.network if exported.scores is not None else run.kind
    named = {"name": target.name, "task": target.task, "classes": list(target.classes)} if target is not None else {}
    return {
        "format": FORMAT,
        "gen3d": __version__,
        "torch": torch.__version__,
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "run": run.artefact.key,
        "network": kind,
        "form": run.model_config.form,
        "target": named or {"name": run.kind, "task": exported.task, "classes": []},
        "channels": list(run.channels),
        "plan": run.plan.model_dump(mode="json"),
        "mask": MASK,
        "window": {"start": list(start), "size": list(size)},
        "intensity": exported.intensity,
        "black": exported.black,
        "takes_age": exported.takes_age,
        "check": {"age_years": CHECK_AGE_YEARS},
    }


def _scores(exported: Exported, member: int, volumes: Tensor, age_years: float | None) -> Tensor:
    """Raw scores [num_scores] of one volume [1, C, X, Y, Z]."""
    model = exported.run.member(member)
    views = model.view(volumes) if isinstance(model, Classifier) else volumes
    ages = (
        torch.tensor([np.nan if age_years is None else age_years], dtype=torch.float32) if exported.takes_age else None
    )
    return scores_of(exported.network(member), views, ages)[0]
