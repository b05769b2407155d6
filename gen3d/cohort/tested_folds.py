"""Who was tested together by `gen3d classify`: the folds of a study, as a training takes them over."""

from __future__ import annotations

from pathlib import Path

from gen3d.cohort.seen import SeenBy
from gen3d.core.errors import UserError
from gen3d.core.tables import TableFile

STUDY = "classify"
"""The verb that writes studies."""

PREDICTIONS = TableFile("predictions.tsv", ("key", "subject"))
"""Of `classify` a row per model, repeat and scan (model, kind, split, y_true, y_score, y_pred); of `predict` a row per scan."""

TRAINED = "train"


def blind_in_folds(folder: Path) -> SeenBy:
    """The folds of the first repeat of a study, as members of which number k saw everybody but those tested in fold k.

    Raises:
        UserError: no study with folds, a damaged table, or a person in two folds.
    """
    table = PREDICTIONS.read(folder, "repeat", "fold")
    table = table[(table["repeat"].astype(float) == 0) & (table["fold"].astype(float) >= 0)]
    pairs = table[["subject", "fold"]].astype({"subject": str, "fold": int}).drop_duplicates()
    if pairs["fold"].nunique() < 2:
        raise UserError(f"folds={folder}: nobody was tested in folds there; give a study with cross-validation.")
    twice = sorted(pairs.loc[pairs["subject"].duplicated(), "subject"])
    if twice:
        raise UserError(f"folds={folder}: {twice[0]} was tested in two folds of one repeat; give another study.")
    everybody = set(pairs["subject"])
    tested = [set(pairs.loc[pairs["fold"] == fold, "subject"]) for fold in sorted(pairs["fold"].unique())]
    return SeenBy(tuple(SeenBy.people(sorted(everybody - own), TRAINED).members[0] for own in tested))
