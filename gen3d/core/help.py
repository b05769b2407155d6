"""The help of a verb: every key of its config with type, default and meaning."""

from __future__ import annotations

import inspect
import shutil
import textwrap
import types
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from gen3d.core.config import Verb, json_ready, models_in, tag_of
from gen3d.core.package_data import CONFIGS
from gen3d.core.starting_points import DEBUG, starting_points_of

NARROW, WIDE = 110, 130
"""Columns of text where there is no terminal, and at most."""


def verb_help(verb: type[Verb], summary: str) -> str:
    """What `gen3d <verb> --help` prints: the summary, the class's text, every key, the settings to start from."""
    width = min(shutil.get_terminal_size((NARROW, 40)).columns, WIDE)
    lines = [f"gen3d {verb.verb_name()}: {summary}\n", inspect.cleandoc(verb.__doc__ or "") + "\n"]
    lines.append("Keys (key=value on the command line, or in a YAML file):")
    for key, kind, default, description in describe(verb):
        shown = "" if not default else f"  {default}" if "required" in default else f"  default {default}"
        lines.append(f"  {key}  <{kind}>{shown}")
        lines.append(textwrap.fill(description, width, initial_indent="      ", subsequent_indent="      "))
    return "\n".join([*lines, *_starting_points(verb.verb_name(), width)])


def _starting_points(verb: str, width: int) -> list[str]:
    """The settings that come with gen3d for a verb; of those for debugging the names alone."""
    points = starting_points_of(verb)
    if not points:
        return []
    lines = [
        f"\nSettings to start from (gen3d {verb} FILE key=value ...). They come with gen3d; a file of the same name in the",
        "working directory goes before them:",
    ]
    for point in points:
        if not point.path.startswith(f"{DEBUG}/"):
            lines.append(f"  {CONFIGS}/{point.path}")
            lines.append(textwrap.fill(point.purpose, width, initial_indent="      ", subsequent_indent="      "))
    debug = ", ".join(f"{CONFIGS}/{point.path}" for point in points if point.path.startswith(f"{DEBUG}/"))
    if debug:
        lines.append("  to try it on simulated people, in minutes:")
        lines.append(textwrap.fill(debug, width, initial_indent="      ", subsequent_indent="      "))
    return lines


def describe(model: type[BaseModel], prefix: str = "") -> list[tuple[str, str, str, str]]:
    """Every key of a model as (dotted key, type, default, description), nested groups unfolded.

    NAME in a key stands for the name that the user gives to a group.
    """
    rows = []
    for name, field in model.model_fields.items():
        nested = list(models_in(field.annotation))
        shown_default = "" if nested and len(nested) > 1 else default_of(field)
        name = field.alias or name
        rows.append((prefix + name, type_name(field.annotation), shown_default, field.description or ""))
        for below in nested:
            tag = f"[kind={tag_of(below)}]" if tag_of(below) and len(nested) > 1 else ""
            member = ".NAME" if get_origin(field.annotation) is dict else ""
            rows += describe(below, f"{prefix}{name}{tag}{member}.")
    return rows


def default_of(field: FieldInfo) -> str:
    """The default of a key as a user would type it, "(required)", or "" for a group of settings."""
    if field.is_required():
        return "(required)"
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined or isinstance(value, BaseModel):
        return ""
    if isinstance(value, dict) and any(isinstance(item, BaseModel) for item in value.values()):
        return ", ".join(value)  # every setting of every group would fill a page; `--show` prints them
    shown = json_ready(value)
    return "none" if shown is None else yaml.safe_dump(shown, default_flow_style=True).removesuffix("...\n").strip()


def type_name(annotation: Any) -> str:
    """A type in words: `list of number`, `template|given`, `group`."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return type_name(get_args(annotation)[0])
    if origin is Literal:
        return "|".join(str(value) for value in get_args(annotation))
    if origin in (Union, types.UnionType):
        return "|".join(dict.fromkeys(type_name(part) for part in get_args(annotation) if part is not type(None)))
    if origin in (tuple, list):
        parts = [part for part in get_args(annotation) if part is not Ellipsis]
        return f"list of {type_name(parts[0])}" if parts else "list"
    if origin is dict:
        return "group"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "group"
    if annotation is Path:
        return "path"
    names = {str: "text", float: "number", int: "whole number", bool: "true|false"}
    return names.get(annotation, getattr(annotation, "__name__", str(annotation)))
