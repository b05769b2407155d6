"""Every key of a verb or a kind of model, as the tables of its page: read from the settings themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from gen3d.core.config import models_in, tag_of
from gen3d.core.help import default_of, type_name
from gen3d.models.registry import KINDS

SPEED, SAFEGUARD = "changes speed or place, not the result", "waives a safeguard; every report says so"


@dataclass(frozen=True)
class KeyRow:
    """One key: its dotted name, type, default as a user types it ("" for a group), meaning, and what else is to be known."""

    key: str
    type: str
    default: str
    meaning: str
    remark: str = ""

    @property
    def required(self) -> bool:
        """Whether there is no default."""
        return self.default == "(required)"


@dataclass(frozen=True)
class KeyTable:
    """The keys of a group of settings. `kinds` are the kinds of model that stand on their own page in place of a table."""

    caption: str
    rows: list[KeyRow]
    about: str = ""
    kinds: tuple[str, ...] = ()


def key_tables(model: type[BaseModel], caption: str, prefix: str = "") -> list[KeyTable]:
    """The table of a model's own keys, and one for each group below it."""
    rows: list[KeyRow] = []
    below: list[KeyTable] = []
    for name, field in model.model_fields.items():
        key = f"{prefix}{field.alias or name}"
        groups = list(models_in(field.annotation))
        default = "" if len(groups) > 1 else default_of(field)
        rows.append(KeyRow(key, type_name(field.annotation), default, field.description or "", _remark(field)))
        kinds = tuple(tag for group in groups if (tag := tag_of(group)) in KINDS)
        if kinds and len(groups) > 1:
            below.append(KeyTable(f"{key}: the kinds of model", [], kinds=kinds))
            continue
        member = ".NAME" if get_origin(field.annotation) is dict else ""
        for group in groups:
            tag = tag_of(group) if len(groups) > 1 else None
            title = f"{key}{member}" + (f" with {key}.kind={tag}" if tag else "")
            below += key_tables(group, title, f"{key}{member}.")
    about = "" if not prefix else " ".join((model.__doc__ or "").split("\n\n")[0].split())
    return [KeyTable(caption, rows, about), *below]


def _remark(field: FieldInfo) -> str:
    marks: Any = field.json_schema_extra
    if not isinstance(marks, dict):
        return ""
    return "; ".join(text for mark, text in (("waives", SAFEGUARD), ("execution", SPEED)) if mark in marks)
