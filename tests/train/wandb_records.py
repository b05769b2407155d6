"""What the files of Weights & Biases hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gen3d.train.tracking.wandb_files import entries_of


def records_of(path: Path) -> list[Any]:
    """What a file of Weights & Biases holds, by its own description of a record."""
    from wandb.proto.wandb_internal_pb2 import Record

    return [Record.FromString(data) for data in entries_of(path)]


def values_of(items: Any) -> dict[str, Any]:
    """Names and values of a record, whose names may be paths."""
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def rows_of(path: Path, name: str) -> list[tuple[int, Any]]:
    """Steps and values of a figure in a file of Weights & Biases."""
    rows = [values_of(record.history.item) for record in records_of(path)]
    return [(row["step"], row[name]) for row in rows if name in row]


def begun_in(path: Path) -> Any:
    """The run that a file of Weights & Biases belongs to."""
    (record,) = [record for record in records_of(path) if record.WhichOneof("record_type") == "run"]
    return record.run
