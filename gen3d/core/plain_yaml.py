"""YAML in which a word stays the word that was written, until the setting that takes it says what it wants.

YAML reads `no` as false, `010` as 8, `12:30` as 750, `1_000` as 1000, `~` as nothing and `1e3` as 1000.0, which are codes, ids and
names of folders as often as not. Here every unquoted scalar keeps its text (`Plain`); `fitted` turns it into a number, a truth
value or nothing only where a setting has such a type.
"""

from __future__ import annotations

import re
import types
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel

from gen3d.core.plain_files import BoundedLoader, parse_yaml

WHOLE = re.compile(r"[-+]?(0|[1-9][0-9]*)")
REAL = re.compile(r"[-+]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?")
NOT_FINITE = {".inf": "inf", "+.inf": "inf", "-.inf": "-inf", ".nan": "nan"}
TRUTH = {"true": True, "false": False}
NOTHING = ("", "~", "null")


class Plain(str):
    """An unquoted scalar: its text, which may also mean a number, a truth value or nothing."""

    def meaning(self) -> Any:
        """What the text means where a setting can hold it: None, bool, int, float, or the text."""
        text = str(self)
        if text.lower() in NOTHING:
            return None
        if text.lower() in TRUTH:
            return TRUTH[text.lower()]
        if WHOLE.fullmatch(text):
            return int(text)
        if REAL.fullmatch(text) or text.lower() in NOT_FINITE:
            return float(NOT_FINITE.get(text.lower(), text))
        return text


class _Loader(BoundedLoader):
    """Without YAML's guesses."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        mapping = super().construct_mapping(node, deep)
        return {str(key) if isinstance(key, str) else key: value for key, value in mapping.items()}


def _scalar(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> str:
    text = str(loader.construct_scalar(node))
    return Plain(text) if node.style is None else text


_Loader.yaml_implicit_resolvers = {
    "<": [("tag:yaml.org,2002:merge", re.compile(r"^(?:<<)$"))],
}
_Loader.add_constructor("tag:yaml.org,2002:str", _scalar)


def parse(text: str) -> Any:
    """The tree of a YAML text; its unquoted scalars are `Plain`, an empty text is None.

    Raises:
        yaml.YAMLError: not YAML, a key given twice, or a few bytes that unfold to very many values or levels.
    """
    try:
        return parse_yaml(text, _Loader)
    except ValueError as error:
        raise yaml.YAMLError(str(error)) from None


def parse_value(text: str) -> Any:
    """A value typed on the command line: a list, a group or a quoted text in YAML, anything else is a word as it stands."""
    stripped = text.strip()
    return parse(stripped) if stripped[:1] in tuple("[{\"'") else Plain(stripped)


def meant(tree: Any) -> Any:
    """The tree with every plain scalar as what it means by itself, for settings without a type."""
    return fitted(tree, Any)


def fitted(tree: Any, annotation: Any) -> Any:
    """The tree with every plain scalar as the type that the setting has: text where it takes text.

    Args:
        tree: as `parse` returns it.
        annotation: type of the setting, for instance a config or `tuple[str, ...] | None`.
    """
    options = list(_options(annotation))
    if isinstance(tree, Plain):
        return _fitted_scalar(tree, options)
    if isinstance(tree, list):
        return [fitted(item, _item(options)) for item in tree]
    if isinstance(tree, dict):
        return _fitted_group(tree, options)
    return tree


def _options(annotation: Any) -> Iterator[Any]:
    """The types that an annotation allows, one by one."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _options(get_args(annotation)[0])
    elif origin in (Union, types.UnionType):
        for part in get_args(annotation):
            yield from _options(part)
    else:
        yield annotation


def _fitted_scalar(scalar: Plain, options: list[Any]) -> Any:
    text, meaning = str(scalar), scalar.meaning()
    named = [value for option in options if get_origin(option) is Literal for value in get_args(option)]
    if text in named:
        return text
    if meaning is None:
        return None if type(None) in options or text == "" or str not in options else text
    if isinstance(meaning, bool):
        wanted = bool in options or meaning in [value for value in named if isinstance(value, bool)]
    elif isinstance(meaning, (int, float)):
        wanted = int in options or float in options or meaning in named
    else:
        wanted = True
    if wanted:
        return meaning
    if str in options or Path in options:
        return text
    if any(get_origin(option) in (tuple, list) for option in options):  # one item instead of a list of one
        return _fitted_scalar(scalar, list(_options(_item(options))))
    return meaning


def _item(options: list[Any]) -> Any:
    """The type of the items of the first list among the options."""
    listed = [get_args(option) for option in options if get_origin(option) in (tuple, list) and get_args(option)]
    return listed[0][0] if listed else Any


def _fitted_group(tree: dict[Any, Any], options: list[Any]) -> dict[Any, Any]:
    models = [option for option in options if isinstance(option, type) and issubclass(option, BaseModel)]
    # Of several kinds, the one that is named first; keys that no kind has are left to the validation.
    models.sort(key=lambda model: _kind(model) != tree.get("kind"))
    values = next((get_args(option)[1] for option in options if get_origin(option) is dict and get_args(option)), Any)
    return {key: fitted(value, _field_type(models, key, values)) for key, value in tree.items()}


def _kind(model: type[BaseModel]) -> Any:
    field = model.model_fields.get("kind")
    return field.default if field is not None else None


def _field_type(models: list[type[BaseModel]], key: Any, otherwise: Any) -> Any:
    for model in models:
        for name, field in model.model_fields.items():
            if key in (name, field.alias):
                return field.annotation
    return otherwise
