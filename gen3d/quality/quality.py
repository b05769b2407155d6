"""`gen3d quality`: synthetic scans compared with real people that the generator never saw, every figure with its floor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd

from gen3d.cohort.channels import T1W
from gen3d.cohort.folder import Prepared, open_prepared
from gen3d.core import words as spell
from gen3d.core.memory import BYTES_OF_GIB, SAID_FROM
from gen3d.core.output_folder import Work
from gen3d.core.progress import say
from gen3d.core.tables import plain_row
from gen3d.core.work import Identity, Inputs
from gen3d.nets.device import device_of
from gen3d.quality.distances import num_bytes_of_kernels
from gen3d.quality.evaluation import Evaluation
from gen3d.quality.features import check_extractors
from gen3d.quality.folder import write_quality
from gen3d.quality.people import QualityPeople, choose_people
from gen3d.quality.sentences import quality_sentences
from gen3d.quality.settings import QualitySettings

TABLES = ("distances", "diversity", "structures", "fidelity", "utility")
REFERENCE_COLUMNS = ["key", "subject", "session", "role", "diagnosis", "age_years", "sex", "site"]


class Quality(QualitySettings):
    """Compare synthetic scans (`gen3d sample`) with real people of a prepared cohort that the generator never saw.

    Writes metrics.json, tables (distances, diversity, structures, fidelity, fidelity_people, utility, reference) and
    figures/: shuffled.png, real and synthetic scans in random order, with the answer in shuffled_key.tsv; labelled.png;
    structures.png; fidelity.png. Every figure comes with its n, an interval, and the same figure between two halves of the
    real people (its floor).
    """

    def plan(self) -> list[str]:
        """Who would be compared."""
        check_extractors(self.extractors)
        people = self.open_inputs()[2]
        training = f"{len(people.training)} real people with role train for predictors"
        return [
            f"compares {len(people.synthetic)} synthetic scans with {len(people.reference)} real people; {training}",
            *people.notes,
            *self._memory(people),
            f"features: {', '.join(config.kind for config in self.extractors)}",
            f"writes {self.out}",
        ]

    def _memory(self, people: QualityPeople) -> list[str]:
        """Of the kernels of real, synthetic, reconstructed and smoothed scans, where it is much."""
        num_bytes = num_bytes_of_kernels(len(people.synthetic) + 3 * len(people.reference), 1)
        if num_bytes < SAID_FROM:
            return []
        return [
            f"memory: up to {spell.number(num_bytes / BYTES_OF_GIB, 1)} GiB for the kernels of distances, which grow with the "
            f"square of people up to most_people={self.most_people} in a group"
        ]

    def reads(self) -> Inputs:
        """The synthetic scans, the real ones, and the generator if it is named."""
        inputs: dict[str, Any] = {"synthetic": self.synthetic, "reference": list(self.reference)}
        return inputs | ({"run": self.run_folder} if self.run_folder is not None else {})

    def identity(self, opened: Callable[[], Any]) -> Identity:
        """Also the weights of the extractors."""
        return Identity(self.reads(), {"weights": check_extractors(self.extractors)})

    def open_inputs(self) -> tuple[Prepared, Prepared, QualityPeople]:
        """The synthetic scans, the real scans, and the people of both that are compared."""
        synthetic, real = open_prepared(self.synthetic), open_prepared(self.reference)
        people = choose_people(synthetic, real, self.match, self.seen, self.most_people, self.seed)
        real.require_channels((T1W,))
        return synthetic, real, people

    def write(self, work: Work, opened: tuple[Prepared, Prepared, QualityPeople]) -> dict[str, Any]:
        """Write the quality folder."""
        synthetic, real, people = opened
        for note in people.notes:
            say(f"reference: {note}")
        device = str(device_of(self.device, 0, "device"))
        evaluation = Evaluation(settings=self, device=device, synthetic=synthetic, real=real, people=people)
        tables = {name: getattr(evaluation, name) for name in TABLES}
        evaluation.write_pictures()
        summary = quality_sentences(tables, len(people.synthetic), len(people.reference))
        self._write_folder(evaluation, tables, summary)
        for sentence in summary:
            say(sentence)
        return {"sentences": summary, "num_synthetic": len(people.synthetic), "num_real": len(people.reference)}

    def _write_folder(self, evaluation: Evaluation, tables: dict[str, pd.DataFrame], summary: list[str]) -> None:
        people = evaluation.people
        record = {
            "summary": summary,
            "num_synthetic": len(people.synthetic),
            "num_real": len(people.reference),
            "num_learned": len(people.training),
            "reference": list(people.notes),
            "not_included": evaluation.notes,
            "extractors": {kind: plain_row(row) for kind, row in evaluation.extractors.items()},
        }
        reference = people.reference[REFERENCE_COLUMNS]
        write_quality(self.out, record, tables, reference, evaluation.conditioning.people)
