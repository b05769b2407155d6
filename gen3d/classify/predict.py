"""`gen3d predict`: where new people stand, by a finished head: probability, how far to trust it, neighbours, warnings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from pydantic import Field
from threadpoolctl import threadpool_limits

from gen3d.classify.folder import NEIGHBOURS, write_predictions
from gen3d.classify.prediction.people import PredictionRequest, open_request
from gen3d.classify.prediction.sentences import sentences, show
from gen3d.classify.prediction.tables import judge_typicality, neighbour_table, prediction_table, training_summary
from gen3d.cohort.seen import LeaveOutPolicy
from gen3d.cohort.tested_folds import PREDICTIONS
from gen3d.core.artefact import read
from gen3d.core.config import Folder, Folders
from gen3d.core.errors import UserError
from gen3d.core.output_folder import Work
from gen3d.core.progress import say, warn
from gen3d.core.work import FolderVerb, Inputs
from gen3d.models.run_folder import TRAIN
from gen3d.stratify.folder import PeopleMap, open_map

if TYPE_CHECKING:
    from gen3d.classify.prediction.network_people import NetworkRequest


class Predict(FolderVerb):
    """Predict new people with the head of a finished `gen3d classify`, or with the networks of a run of `gen3d train`.

    Writes predictions.tsv, one row per scan: calibrated probabilities, what came true of such probabilities in
    cross-validation, the call, how typical the scan is of the training scans (its percentile among their held-out distances) and
    why a prediction may not hold; neighbours.tsv, the nearest training people; metrics.json. People that the head was
    trained on are refused.

    A run of kind classifier or fusion predicts by the mean of its members, none of which saw a new person; it keeps no training
    people, so that it names no neighbours. By a fusion, people who lack genetics or a scan are predicted by the other, and told
    what that alone is worth.
    """

    head: Folder = Field(
        description="folder of a finished head (classify), or of a run of kind classifier or fusion (train)"
    )
    latents: Folders | None = Field(
        None, description="latents of new people (encode, harmonise), made as those of the head, or of the fusion"
    )
    prepared: Folders | None = Field(None, description="runs: scans of new people, on the grid of the training scans")
    genotypes: Folder | None = Field(
        None, description="fusion: genetics of new people, with the alleles and the build of the training people"
    )
    strata: Folder | None = Field(None, description="a map of people (stratify) of the same latents, to place them in")
    neighbours: int = Field(5, ge=1, description="heads: nearest training people that are listed per scan")
    seen: LeaveOutPolicy = Field("refuse", description="people that the head was trained on: refuse, or leave_out")
    seed: int = Field(0, ge=0, description="seed of the dealing of training people into folds for held-out distances")

    def plan(self) -> list[str]:
        """Who would be predicted by which head."""
        request, _ = self.open_inputs()
        if not isinstance(request, PredictionRequest):
            return [*request.describe(), f"writes {self.out}"]
        training = training_summary(request)
        return [
            f"predicts {request.head.target.describe()} of {len(request.people)} scans by the {request.head.settings.kind} head of "
            f"{self.head}, trained on {training['num_people']} people",
            *request.notes,
            f"writes {self.out}",
        ]

    def reads(self) -> Inputs:
        """The head, the new people, and the map of people if there is one."""
        inputs: dict[str, Any] = {"head": self.head}
        inputs |= {name: list(paths) for name in ("latents", "prepared") if (paths := getattr(self, name)) is not None}
        return inputs | {name: path for name in ("genotypes", "strata") if (path := getattr(self, name)) is not None}

    def open_inputs(self) -> tuple[PredictionRequest | NetworkRequest, PeopleMap | None]:
        """The head with the new people, and the map to place them in."""
        if read(self.head, ("classify", TRAIN)).verb == TRAIN:
            return self._of_networks(), None
        if self.genotypes is not None:
            raise UserError(
                f"{self.head}: a head on latents takes no genotypes=: `gen3d classify` keeps the head of the scan alone, and "
                "compares it with models of genes; train model.kind=fusion and give its run as head= to predict from both."
            )
        if self.prepared is not None:
            raise UserError(f"{self.head}: a head on latents takes no prepared=, which is for runs; give latents=.")
        if self.latents is None:
            raise UserError(f"{self.head}: a head on latents needs latents= of the new people.")
        with threadpool_limits(1):  # small problems, in which threads would wait for each other
            request = open_request(self.head, self.latents, self.seen)
        return request, self._map(request) if self.strata is not None else None

    def _of_networks(self) -> NetworkRequest:
        from gen3d.classify.prediction.network_people import NewPeople, open_network_request  # loads torch

        if self.strata is not None:
            raise UserError(
                f"{self.head}: strata= places latents in a map, and this is a run of networks; leave it out."
            )
        given = NewPeople(self.prepared, self.latents, self.genotypes)
        return open_network_request(self.head, given, self.seen)

    def write(self, work: Work, opened: tuple[PredictionRequest | NetworkRequest, PeopleMap | None]) -> dict[str, Any]:
        """Write the folder."""
        request, people_map = opened
        if not isinstance(request, PredictionRequest):
            return self._by_network(request)
        with threadpool_limits(1):
            summary = self._predict(request, people_map)
        say(f"{self.out / PREDICTIONS.file}")
        return summary

    def _by_network(self, request: NetworkRequest) -> dict[str, Any]:
        from gen3d.classify.prediction.networks import predict_by_network

        found = predict_by_network(request, self.seed)
        target, scores = request.scores.target, request.scores
        threshold = next(iter(found.tests.values())).threshold if found.tests else float("nan")
        record = {
            "summary": found.sentences,
            "head": {
                "folder": str(self.head),
                "kind": scores.network,
                "target": {"name": target.name, "task": target.task, "classes": list(target.classes)},
                "features": " and ".join(scores.channels),
                "threshold": threshold if np.isfinite(threshold) else None,
                "members": len(scores.of()),
            },
            "tests": {subset: test.record(target) for subset, test in found.tests.items()},
            "notes": list(request.notes),
        }
        nobody = pd.DataFrame(columns=list(NEIGHBOURS.columns))
        reliability = next(iter(found.tests.values())).reliability if found.tests else []
        write_predictions(self.out, found.table, nobody, record, reliability)
        for sentence in found.sentences:
            say(sentence)
        say(f"{self.out / PREDICTIONS.file}")
        warned = int((found.table["out_of_distribution"] != "").sum())
        return {"summary": found.sentences[:1], "num_scans": len(found.table), "num_warned": warned}

    def _map(self, request: PredictionRequest) -> PeopleMap:
        assert self.strata is not None
        opened = open_map(self.strata)
        if (opened.run_key,) != request.people.made_by:
            raise UserError(
                f"{self.strata}: the map is of latents made by the run {opened.run_key}, but these are made by "
                f"{', '.join(request.people.made_by)}; run `gen3d stratify` on latents of that run, or leave out strata=."
            )
        return opened

    def _predict(self, request: PredictionRequest, people_map: PeopleMap | None) -> dict[str, Any]:
        model, typical = judge_typicality(request, self.seed)
        neighbours = neighbour_table(request, self.neighbours)
        predictions = prediction_table(request, model, typical, neighbours)
        if people_map is not None:
            predictions = _placed(predictions, request, people_map)
        summary = sentences(request, predictions, model)
        head, threshold = request.head, request.family.threshold
        record = {
            "summary": summary,
            "head": {
                "folder": str(self.head),
                "kind": head.settings.kind,
                "target": {"name": head.target.name, "task": head.target.task, "classes": list(head.target.classes)},
                "features": head.words,
                "made_by": list(head.made_by),
                "threshold": threshold if np.isfinite(threshold) else None,
                "members": len(request.family.heads),
                "training": training_summary(request),
                "summary": request.metrics.get("summary", [])[:1],
            },
            "typicality": {"num_people": model.num_people, "smallest_p": model.smallest_tail},
            "notes": list(request.notes),
        }
        write_predictions(self.out, predictions, neighbours, record, request.rows_of("reliability"))
        show(request, predictions, neighbours)
        for sentence in summary:
            say(sentence)
        warned = int((predictions["out_of_distribution"] != "").sum())
        if warned:
            warn(
                f"{warned} of {len(predictions)} scans are unlike those that the head was trained on; see out_of_distribution."
            )
        return {"summary": summary[:1], "num_scans": len(predictions), "num_warned": warned}


def _placed(predictions: pd.DataFrame, request: PredictionRequest, people_map: PeopleMap) -> pd.DataFrame:
    """With the place in the map; the columns of the cluster are empty where the map has none."""
    rows = request.spaces[0]
    placed = people_map.project(np.asarray(rows.values), rows.table)
    return predictions.assign(
        pc1=placed.pcs[:, 0],
        pc2=placed.pcs[:, 1] if placed.pcs.shape[1] > 1 else np.nan,
        umap1=placed.umap[:, 0],
        umap2=placed.umap[:, 1],
        cluster=placed.cluster,
        certainty=placed.certainty,
    )
