"""The gate between quarantine and a synthetic dataset: scans are released after the audit for copies, or with a waiver."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gen3d.cohort.channels import T1W
from gen3d.cohort.folder import Prepared, open_prepared
from gen3d.core.artefact import Artefact, read, write_json
from gen3d.core.disk import writing
from gen3d.core.errors import UserError
from gen3d.core.inputs import input_of
from gen3d.core.plain_files import load_object
from gen3d.core.progress import say, warn
from gen3d.core.tables import write_table
from gen3d.imaging.volume import read_stored
from gen3d.models.run import Run
from gen3d.synthesis.audit import Audit, AuditSettings, draw_nearest, known_people, run_audit
from gen3d.synthesis.folder import AUDIT, SyntheticDataset, key_of

NEAREST_PICTURE, NEAREST_TABLE = "nearest.png", "nearest.tsv"
REFERENCE_REMEDY = "the people that a model was trained on are needed"
ADVICE = "train with more people, augment.flip, fewer steps or a smaller network"


@dataclass(frozen=True)
class Gate:
    """The audit of a run's scans. Without a reference cohort, `obstacle` says why no audit is possible."""

    run: Run
    settings: AuditSettings
    reference: Prepared | None
    obstacle: str
    waiver: str | None

    @classmethod
    def open(cls, run: Run, settings: AuditSettings, folders: Sequence[Path] | None, waiver: str | None) -> Gate:
        """Open the people to audit against: in these folders, or in those that the run was trained on.

        Raises:
            UserError: there are none, or too few, and there is no waiver.
        """
        try:
            reference = open_prepared(tuple(folders) if folders is not None else training_folders(run))
            run.require(reference)
            known_people(run, reference, settings)
        except UserError as error:
            if waiver is None:
                raise UserError(
                    f"no audit for copies of training people is possible: {error} Give audit_against= the prepared folders "
                    "with the training and held-out people, or release the scans without an audit by waiver='reason'."
                ) from None
            return cls(run, settings, None, str(error), waiver)
        return cls(run, settings, reference, "", waiver)

    def pass_through(self, dataset: SyntheticDataset, samples: Sequence[int]) -> list[bool | None]:
        """Audit the scans and write audit.json; returns which of them are copies, None where no audit was possible.

        Raises:
            UserError: there are more copies than allowed, and no waiver; the scans stay in quarantine.
        """
        if self.reference is None:
            warn(f"no audit for copies: {self.obstacle} Waived: {self.waiver}")
            self._report(dataset, {"done": False, "obstacle": self.obstacle})
            return [None] * len(samples)
        audit = run_audit(self.run, self._scans(dataset, samples), self.reference, self.settings)
        self._report(dataset, {"done": True, **audit.to_dict()})
        for sentence in audit.sentences:
            say(sentence)
        if audit.failed and self.waiver is None:
            self._keep_aside(dataset, audit)
            raise UserError(
                f"{audit.sentences[0]}; the scans stay in {dataset.out}/quarantine, where {NEAREST_PICTURE} shows the "
                f"nearest of them next to the training scans; {ADVICE}, or run the same command with waiver='reason'."
            )
        if audit.failed:
            warn(f"the audit failed and is waived: {self.waiver}")
        return [bool(copied) for copied in audit.copied]

    def _scans(self, dataset: SyntheticDataset, samples: Sequence[int]) -> Iterator[tuple[str, NDArray[np.float32]]]:
        for sample in samples:
            paths = [dataset.drawn(sample, channel) for channel in self.run.channels]
            yield key_of(sample), np.stack([read_stored(path) for path in paths])

    def report(self, dataset: SyntheticDataset) -> dict[str, Any]:
        """The audit of a dataset, as audit.json has it."""
        return load_object(dataset.out / AUDIT)

    def summary(self, dataset: SyntheticDataset) -> str:
        """The verdict on a dataset in a word or two."""
        figures = self.report(dataset)
        verdict = "not possible" if not figures["done"] else "failed" if figures["failed"] else "passed"
        return verdict if verdict == "passed" else f"{verdict}, waived: {figures['waiver']}"

    def still_stands(self, dataset: SyntheticDataset) -> None:
        """Refuse a finished dataset that was released with a waiver, unless the waiver is given again."""
        figures = self.report(dataset)
        if self.waiver is None and (figures.get("failed") or not figures["done"]):
            raise UserError(
                f"{dataset.out}: was finished before, but released with a waiver ({figures['waiver']}); give waiver= again to "
                "confirm it."
            )

    def _report(self, dataset: SyntheticDataset, figures: dict[str, Any]) -> None:
        with writing(dataset.out):
            write_json(dataset.out / AUDIT, _without_nan(figures | {"waiver": self.waiver}))

    def _keep_aside(self, dataset: SyntheticDataset, audit: Audit) -> None:
        """Write the nearest training scans to quarantine: these files show patients and never become part of the dataset."""
        assert self.reference is not None
        samples = {key: number for number, key in enumerate(audit.keys)}
        with writing(dataset.out):
            write_table(dataset.quarantine / NEAREST_TABLE, audit.nearest)
            draw_nearest(
                dataset.quarantine / NEAREST_PICTURE,
                audit,
                lambda key: read_stored(dataset.drawn(samples[key], T1W)),
                self.reference,
            )


def training_folders(run: Run) -> tuple[Path, ...]:
    """The prepared folders that a run and its autoencoder were trained on, as they recorded them.

    Raises:
        UserError: one of them is missing, or was replaced.
    """
    if run.artefact.verb == "import-weights":
        raise UserError(f"{run.folder}: holds imported weights, so its training people are not known.")
    folders = _recorded(run.artefact)
    if not folders:
        raise UserError(f"{run.folder}: does not say which prepared folders its model was trained on.")
    return tuple(dict.fromkeys(folders))


def _recorded(artefact: Artefact) -> list[Path]:
    """Prepared folders among an artefact's inputs, and among those of the latents and the autoencoder that it names."""
    folders = [input_of(artefact, item, REFERENCE_REMEDY) for item in artefact.inputs.get("prepared", [])]
    for name in ("latents", "autoencoder", "run"):
        for item in artefact.inputs.get(name, []):
            upstream = read(input_of(artefact, item, REFERENCE_REMEDY))
            folders += [] if upstream.verb == "import-weights" else _recorded(upstream)
    return folders


def _without_nan(figures: dict[str, Any]) -> dict[str, Any]:
    """Figures with null for NaN (undefined for a single scan, for instance), which JSON lacks."""
    plain: dict[str, Any] = json.loads(json.dumps(figures, default=str), parse_constant=lambda name: None)
    return plain
