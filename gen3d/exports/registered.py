"""What a registered model answers: of an array of volumes, or of the scans of a prepared folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from gen3d.cohort.folder import Prepared, open_prepared
from gen3d.cohort.seen import identities
from gen3d.core.errors import UserError
from gen3d.exports.model_networks import Exported, open_exported, scores_of
from gen3d.models.run import Run, covariates_of, load_run, scan_seed
from gen3d.models.supervised.classifier import Classifier

UNKNOWN = "somebody of whom only a volume is given"


@dataclass(frozen=True)
class RegisteredRun:
    """A run that answers: a classifier, or a model with an expectation of scans."""

    run: Run
    classifier: Exported | None

    @classmethod
    def open(cls, folder: Path) -> RegisteredRun:
        """Open a run folder.

        Raises:
            UserError: not a finished run, or a model that says nothing of a scan by itself.
        """
        run = load_run(folder)
        if run.kind == "classifier":
            return cls(run, open_exported(run, None))
        if not run.model_config.has_expectation:
            raise UserError(
                f"{folder}: a {run.kind} says nothing of a single scan; register a classifier, or a model with an expectation, "
                f"and use this run with {run.model_config.used_with}."
            )
        return cls(run, None)

    def predict(self, asked: Any) -> pd.DataFrame | NDArray[np.float32]:
        """What the model says.

        Args:
            asked: volumes [n, C, X, Y, Z] (or one, [C, X, Y, Z]) in stored units on the run's grid, or the path of a prepared
                folder (also as the first cell of a table or a list, as servers pass it on).

        Returns:
            of an array: healthy expectations [n, C, X, Y, Z]; of a classifier a table with a row per volume. Nobody knows
            whose volumes these are, so that the caller answers for it that no member was trained on them.
            of a folder: a table with a row per scan that was not excluded, by members that never saw the person (`members`;
            nothing is said of people whom all saw): the root mean square of scan minus expectation inside the brain, per
            channel, or the probabilities of the classes, or a predicted number.

        Raises:
            UserError: other shapes, or a folder that does not fit the run.
        """
        if isinstance(asked, np.ndarray) and asked.dtype != object and asked.ndim >= 4:
            return self._of_array(asked)
        return self._of_folder(_path_in(asked))

    def _of_array(self, volumes: NDArray[Any]) -> pd.DataFrame | NDArray[np.float32]:
        shape = (len(self.run.channels), *self.run.plan.shape)
        given = np.asarray(volumes if volumes.ndim == 5 else volumes[None], np.float32)
        if given.shape[1:] != shape:
            raise UserError(
                f"volumes of shape {list(volumes.shape)} do not fit {self.run.folder}, which takes "
                f"[n, {', '.join(map(str, shape))}]: channels {', '.join(self.run.channels)} on {self.run.plan.describe()}."
            )
        if not np.isfinite(given).all():
            raise UserError("volumes hold NaN or infinite values; look at the scans that they come from.")
        if self.classifier is not None:
            return pd.DataFrame([self._answer(volume, UNKNOWN, None, self.classifier.members) for volume in given])
        covariates = self.run.covariates_of([np.nan], [""], [""])[0]
        expected = [self.run.expect(volume, UNKNOWN, covariates) for volume in given]
        return np.stack([expectation[0] for expectation in expected if expectation is not None])

    def _of_folder(self, folder: Path) -> pd.DataFrame:
        prepared = open_prepared([folder])
        self.run.require(prepared)
        table = prepared.manifest[prepared.manifest["role"] != "excluded"].reset_index(drop=True)
        rows = []
        for (_, row), person in zip(table.iterrows(), identities(table), strict=True):
            key = str(row["key"])
            blind = self.run.seen.blind_to(person)
            answer: dict[str, Any] = {"key": key, "subject": str(row["subject"]), "members": " ".join(map(str, blind))}
            volume = prepared.load([key], self.run.channels)[0]
            if self.classifier is not None:
                judges = [member for member in blind if member in self.classifier.members]
                age = float(row["age_years"]) if np.isfinite(row["age_years"]) else None
                answer |= self._answer(volume, key, age, judges) if judges else {}
            else:
                answer |= self._residual(prepared, volume, row, person)
            rows.append(answer)
        return pd.DataFrame(rows)

    def _residual(
        self, prepared: Prepared, volume: NDArray[np.float32], row: pd.Series, person: Any
    ) -> dict[str, float]:
        """Root mean square of scan minus expectation inside the brain, in the stored units of each channel."""
        covariates, seed = covariates_of(self.run, row), scan_seed(0, str(row["key"]))
        expectation = self.run.expect(volume, person, covariates, seed=seed)
        if expectation is None:
            return {}
        rest = (volume - expectation[0])[:, prepared.mask]
        return {
            f"rms_{channel}": float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))
            for channel, values in zip(self.run.channels, rest, strict=True)
        }

    def _answer(
        self, volume: NDArray[np.float32], key: str, age_years: float | None, members: Sequence[int]
    ) -> dict[str, Any]:
        """What the classifier's members say of a volume [C, X, Y, Z], as cells of a table."""
        assert self.classifier is not None
        scores = []
        for member in members:
            model = self.run.member(member)
            assert isinstance(model, Classifier)
            ages = [np.nan if age_years is None else age_years]
            age = torch.tensor(ages, dtype=torch.float32) if self.classifier.takes_age else None
            scores.append(
                scores_of(self.classifier.network(member), model.view(torch.from_numpy(volume[None])), age)[0]
            )
        said = self.classifier.answer(key, list(members), scores)
        if "predicted" in said:
            return {"predicted": said["predicted"]}
        return {"predicted": said["class"], **{f"p_{name}": share for name, share in said["probabilities"].items()}}


def _path_in(asked: Any) -> Path:
    """The path of a folder, however MLflow passes it on.

    Raises:
        UserError: something else.
    """
    if isinstance(asked, pd.DataFrame | pd.Series):
        asked = asked.to_numpy()
    if isinstance(asked, np.ndarray):
        asked = asked.ravel().tolist()
    while isinstance(asked, list | tuple) and len(asked) == 1:
        asked = asked[0]
    if isinstance(asked, str | Path):
        return Path(asked)
    raise UserError(
        "a registered model takes one prepared folder (its path) or an array of volumes [n, channels, x, y, z], not "
        f"{type(asked).__name__}."
    )
