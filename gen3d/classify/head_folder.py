"""How a fitted head is kept: what it learned from and what it found out, from which it is fitted again when opened.

Nothing is pickled. head.json holds the settings, what the inner cross-validation chose, the calibration and the threshold;
training.npz the features, codes and people; training.tsv their rows of the cohort table; weights.safetensors the weights of
a network. Opening fits the head again, without an inner cross-validation, and compares its outputs with those of the head
that was kept. So a head folder holds data of the people it learned from, and is to be guarded like them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from pandas.api.types import is_bool_dtype, is_numeric_dtype
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from gen3d import __version__
from gen3d.classify.heads.settings import HeadSettings, ResidualSettings
from gen3d.classify.study.recipe import HeadRecipe, KeptLearned, Learned, Reducer
from gen3d.classify.study.recipes import FeatureRecipe, head_recipe
from gen3d.cohort.target import Rows, Target, Values
from gen3d.core.arrays import read_arrays, require_finite
from gen3d.core.artefact import file_digest, write_json
from gen3d.core.errors import UserError
from gen3d.core.files import require_regular
from gen3d.core.plain_files import load_object
from gen3d.core.tables import parse_table, write_table
from gen3d.harmonise.recipe import Harmonisation

RECORD, TRAINING, TABLE, WEIGHTS = "head.json", "training.npz", "training.tsv", "weights.safetensors"
NUM_CHECKED = 50
TOLERANCE = 1e-5
"""Of a probability, or of a number in units of the spread of the numbers learned from."""
NETWORK_TOLERANCE = 5e-3
"""The same for a network, whose weights are kept and which a graphics card evaluates with fewer digits than a processor."""


class Space(Protocol):
    """The features that a head was fitted on, as far as they must be recognised."""

    @property
    def made_by(self) -> tuple[str, ...]:
        """Keys of the runs that made them."""
        ...

    @property
    def words(self) -> str:
        """What they are."""
        ...


@dataclass(frozen=True)
class Head:
    """An opened head. `training` are the scans it learned from, `codes` and `groups` their labels and people."""

    settings: HeadSettings
    target: Target
    recipe: HeadRecipe
    reducer: Reducer
    learned: Learned
    training: Rows
    codes: Values
    groups: NDArray[np.int64]
    made_by: tuple[str, ...]
    words: str

    @property
    def threshold(self) -> float:
        """Of the last class's probability, for two classes; NaN otherwise."""
        return self.learned.threshold

    def outputs(self, rows: Rows) -> Values:
        """Calibrated probabilities of the classes [n, classes], or predicted numbers [n, 1]."""
        return self.learned.outputs(self.reducer.apply(rows))


@dataclass(frozen=True)
class HeadFamily:
    """The heads of a cross-fitted family of latents, one per member, each in the space of its member.

    A new person was seen by none of the members, so each member's head predicts that person as it predicted the people who were
    held out of its fold: these are the very heads that were tested. Their outputs are averaged. One space gives a family of one.
    """

    heads: tuple[Head, ...]

    @property
    def first(self) -> Head:
        """The head of the first member, for what all of them share: settings, target, recipe, runs behind the latents."""
        return self.heads[0]

    @property
    def threshold(self) -> float:
        """Of the last class's probability, for two classes: the mean over members; NaN otherwise."""
        return float(np.mean([head.threshold for head in self.heads]))

    @property
    def subjects(self) -> set[str]:
        """Everybody that any of them was trained on."""
        return {str(subject) for head in self.heads for subject in head.training.table["subject"]}

    def outputs(self, rows: Sequence[Rows]) -> Values:
        """Mean of the outputs, [n, outputs], of the same scans in the space of each member."""
        return np.asarray(np.mean([head.outputs(part) for head, part in zip(self.heads, rows, strict=True)], axis=0))


def save_head(
    folder: Path,
    recipe: HeadRecipe,
    learned: KeptLearned,
    rows: Rows,
    codes: Values,
    groups: NDArray[np.int64],
    target: Target,
    seed: int,
    features: Space,
    num_members: int = 1,
) -> None:
    """Keep a head.

    Args:
        folder: to write; the record is written last.
        recipe: that made it.
        learned: fitted on exactly these rows with this seed.
        rows: training scans.
        codes: class numbers or values [n].
        groups: number of the person of each scan [n].
        target: what the codes mean.
        seed: given to `learn`.
        features: where the rows come from.
        num_members: heads of the family that this one is a member of.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RECORD).unlink(missing_ok=True)
    outputs = learned.outputs(recipe.reduce(rows).apply(rows.take(_checked(len(rows)))))
    _write_training(folder / TRAINING, rows, codes, groups, outputs)
    write_table(folder / TABLE, rows.table, digits=17)
    state = learned.state()
    weights = state.pop("weights", None)
    if weights is not None:
        save_file(weights, folder / WEIGHTS)
    reduction = recipe.reduction if isinstance(recipe, FeatureRecipe) else None
    harmonisation = reduction.harmonisation if reduction is not None else None
    record = {
        "target": {"name": target.name, "task": target.task, "classes": list(target.classes)},
        "head": recipe.settings.model_dump(mode="json"),
        "threshold": recipe.threshold,
        "components": reduction.components if reduction is not None else None,
        "confounds": list(reduction.confounds) if reduction is not None else [],
        "harmonisation": harmonisation.model_dump(mode="json") if harmonisation is not None else None,
        "state": state,
        "seed": seed,
        "latents": {"made_by": list(features.made_by), "words": features.words, "members": num_members},
        "shape": list(rows.shape),
        "blocks": list(rows.blocks),
        "text_columns": [
            str(name) for name, column in rows.table.items() if not is_numeric_dtype(column) or is_bool_dtype(column)
        ],
        "versions": _versions(),
        "files": {name: file_digest(folder / name) for name in (TRAINING, TABLE, *((WEIGHTS,) if weights else ()))},
    }
    write_json(folder / RECORD, record)


def _write_training(path: Path, rows: Rows, codes: Values, groups: NDArray[np.int64], outputs: Values) -> None:
    """Write what the head was trained on, and its outputs by which it is checked when it is opened."""
    with path.open("wb") as stream:
        np.savez(
            stream,
            features=np.asarray(rows.values),
            codes=np.asarray(codes, dtype=np.float64),
            groups=np.asarray(groups, dtype=np.int64),
            outputs=outputs,
        )


def open_head(folder: Path) -> Head:
    """Fit a kept head again.

    Args:
        folder: written by `save_head`.

    Raises:
        UserError: no head there, damaged or changed files, or a head that comes out otherwise than the one that was kept.
    """
    record = _record(folder)
    try:
        asked = record["target"]
        target = Target(asked["name"], asked["task"], tuple(asked["classes"]))
        settings: HeadSettings = TypeAdapter(HeadSettings).validate_python(record["head"])
        recipe = _recipe(record, settings)
        rows, codes, groups, outputs = _training(folder, record)
        seed, state = int(record["seed"]), dict(record["state"])
        if WEIGHTS in record["files"]:
            state["weights"] = _weights(folder / WEIGHTS)
        space = record["latents"]
        made_by, words = tuple(space["made_by"]), str(space["words"])
    except (KeyError, TypeError, ValueError, AttributeError, OSError, ValidationError, SafetensorError) as error:
        raise UserError(f"{folder / RECORD}: damaged ({error}); fit the head again with `gen3d classify`.") from None
    reducer = recipe.reduce(rows)
    learned = recipe.relearn(reducer.apply(rows), codes, groups, target, seed, state)
    head = Head(settings, target, recipe, reducer, learned, rows, codes, groups, made_by, words)
    _check(folder, head, outputs, record["versions"])
    return head


def member_folder(folder: Path, member: int, num_members: int) -> Path:
    """Where the head of a member is kept: the folder itself, or a numbered one below it."""
    return folder if num_members == 1 else folder / str(member)


def open_heads(folder: Path) -> HeadFamily:
    """Fit what is kept in a head's folder again: one head, or those of a family.

    Raises:
        UserError: no head there, a member missing, or as `open_head`.
    """
    if (folder / RECORD).is_file():
        return HeadFamily((open_head(folder),))
    num = _record(folder / "0")["latents"]["members"] if (folder / "0").is_dir() else 1
    if not isinstance(num, int) or num < 1:
        raise UserError(
            f"{folder / '0' / RECORD}: damaged (members is {num!r}); fit the head again with `gen3d classify`."
        )
    return HeadFamily(tuple(open_head(member_folder(folder, member, num)) for member in range(num)))


def _record(folder: Path) -> dict[str, Any]:
    path = folder / RECORD
    if not path.is_file():
        raise UserError(f"{folder}: holds no fitted head ({RECORD}); give a folder of `gen3d classify` that kept one.")
    try:
        record = load_object(path, finite=True)
        for name, digest in record["files"].items():
            if not (folder / name).is_file() or file_digest(folder / name) != digest:
                raise UserError(
                    f"{folder / name}: missing, or not what the head was kept with; fit the head again with `gen3d classify`."
                )
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(f"{path}: damaged ({error}); fit the head again with `gen3d classify`.") from None
    return record


def _recipe(record: dict[str, Any], settings: HeadSettings) -> HeadRecipe:
    asked = record["harmonisation"]
    harmonisation = Harmonisation.model_validate(asked) if asked is not None else None
    return head_recipe(settings, record["components"], record["confounds"], harmonisation, record["threshold"])


def _training(folder: Path, record: dict[str, Any]) -> tuple[Rows, Values, NDArray[np.int64], Values]:
    arrays = read_arrays(folder / TRAINING)
    values, codes, groups, outputs = (arrays[name] for name in ("features", "codes", "groups", "outputs"))
    for name in ("features", "codes", "outputs"):
        require_finite(arrays[name], f"{TRAINING}: {name}")
    if not len(values) == len(codes) == len(groups):
        raise ValueError(f"{TRAINING}: arrays of different lengths")
    table = parse_table(folder / TABLE, na_values=["n/a"], dtype=str)
    text = set(record["text_columns"])
    for name in table.columns:
        cells, known = table[name].astype(object), table[name].notna()
        if name in text:
            table[name] = cells.where(known, "")
        else:  # Python's float gives back every digit in every version of pandas
            table[name] = np.array([float(cell) if there else np.nan for cell, there in zip(cells, known, strict=True)])
    return Rows(values, table, tuple(record["blocks"]), tuple(record["shape"])), codes, groups, outputs


def _weights(path: Path) -> dict[str, NDArray[Any]]:
    require_regular(path)
    weights = load_file(path)
    for name, array in weights.items():
        require_finite(array, f"{path.name}: {name}")
    return weights


def _check(folder: Path, head: Head, kept: Values, versions: dict[str, str]) -> None:
    found = head.outputs(head.training.take(_checked(len(head.training))))
    unit = float(head.codes.std()) or 1.0 if head.target.task == "number" else 1.0
    largest = float(np.abs(found - kept).max()) / unit if found.shape == kept.shape else np.inf
    if np.isfinite(largest) and largest <= (
        NETWORK_TOLERANCE if isinstance(head.settings, ResidualSettings) else TOLERANCE
    ):
        return
    now = _versions()
    changed = [f"{name} was {versions.get(name)} and is {now[name]}" for name in now if versions.get(name) != now[name]]
    raise UserError(
        f"{folder}: fitted again, the head gives other outputs than the one that was kept (by up to {largest:.2g}; "
        f"{', '.join(changed) or 'the versions are the same, so the machine differs'}); use those versions, or fit the head "
        "again with `gen3d classify`."
    )


def _versions() -> dict[str, str]:
    return {"gen3d": __version__, **{name: version(name) for name in ("numpy", "scipy", "scikit-learn")}}


def _checked(num: int) -> NDArray[np.int64]:
    """Up to 50 rows, evenly over all."""
    return np.unique(np.linspace(0, num - 1, min(num, NUM_CHECKED)).astype(np.int64))
