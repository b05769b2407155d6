"""The frozen, typed configuration that every verb is.

Every setting is declared once, in the class that uses it, with its unit and default in its `Field`. The command line,
`--help`, `--show` and the YAML files are all read from those fields.
"""

from __future__ import annotations

import difflib
import re
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from gen3d.core import plain_yaml
from gen3d.core.errors import UserError
from gen3d.core.plain_files import MOST_YAML_BYTES, read_bytes
from gen3d.core.starting_points import config_file

AnyVerb = TypeVar("AnyVerb", bound="Verb")


def _one_or_many(value: Any) -> Any:
    return value if isinstance(value, (list, tuple)) else [value]


def _by_name_or_many(value: Any) -> Any:
    """Names are words whatever they look like; they stand in file names, so they are letters and digits."""
    if not isinstance(value, dict):
        return _one_or_many(value)
    wrong = [str(name) for name in value if not re.fullmatch("[A-Za-z0-9]+", str(name))]
    if wrong:
        raise ValueError(f"the name {wrong[0]!r} is not one of letters and digits only; choose another.")
    return {str(name): folder for name, folder in value.items()}


def _path_text(value: Any) -> Any:
    return str(value) if isinstance(value, (int, float)) else value


Folder = Annotated[Path, BeforeValidator(_path_text)]
Folders = Annotated[tuple[Folder, ...], BeforeValidator(_one_or_many), Field(min_length=1)]
NamedFolders = Annotated[dict[str, Folder] | tuple[Folder, ...], BeforeValidator(_by_name_or_many), Field(min_length=1)]
"""One folder, a list, or folders by the names that the user gives them."""


def execution(default: Any, description: str, **constraints: Any) -> Any:
    """A field that changes where or how fast the work is done but never its result.

    Such fields are left out of an artefact's key, so that an interrupted run may go on with, say, fewer workers.
    """
    return Field(default, description=description, json_schema_extra={"execution": True}, **constraints)


def waiver(default: Any, description: str, *, waives: tuple[Any, ...] | None = None, **constraints: Any) -> Any:
    """A field with which a user can waive a safeguard; every report names the folders for which that was done.

    Args:
        default: keeps the safeguard.
        description: as of every field.
        waives: the values that waive it; None: any text, which is the reason.
        constraints: as of `Field`; with `execution=True` the field stays out of an artefact's key.
    """
    marks: dict[str, Any] = {"waives": None if waives is None else list(waives)}
    if constraints.pop("execution", False):
        marks["execution"] = True
    return Field(default, description=description, json_schema_extra=marks, **constraints)


def waived(config: BaseModel, prefix: str = "") -> list[str]:
    """The safeguards that a config waives, as `key=value`; nested groups by their dotted keys."""
    listed: list[str] = []
    for name, field in type(config).model_fields.items():
        key, value, marks = f"{prefix}{field.alias or name}", getattr(config, name), field.json_schema_extra
        if isinstance(marks, dict) and "waives" in marks:
            values = marks["waives"]
            if value in values if isinstance(values, list) else bool(value):
                listed.append(f"{key}={json_ready(value)}")
        groups = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else (value,)
        for group in groups:
            if isinstance(group, BaseModel):
                listed += waived(group, f"{key}.")
    return listed


class Config(BaseModel):
    """A frozen group of settings; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, coerce_numbers_to_str=True)

    def settings(self) -> dict[str, Any]:
        """The settings that determine the result, JSON-ready: execution-only fields are left out."""
        return _without_execution(self)


class Verb(Config):
    """One capability of the platform: its settings, and `run()`, which reads artefact folders and writes one."""

    out: Folder = Field(description="folder to write")

    @classmethod
    def verb_name(cls) -> str:
        """The verb as a user types it: ImportWeights is `import-weights`."""
        return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", cls.__name__).lower()

    @classmethod
    def cannot_begin(cls, error: UserError, num_processes: int) -> UserError:
        """The error to raise for wrong settings; a verb that several processes share informs the others first."""
        return error

    @classmethod
    def check_processes(cls, num_processes: int) -> None:
        """Refuse several processes; a verb that they can share lets them."""
        if num_processes > 1:
            raise UserError(
                f"`gen3d {cls.verb_name()}` is one process, but WORLD_SIZE says that {num_processes} were started; run it "
                "without torchrun, or `unset WORLD_SIZE` if it is left over."
            )

    def run(self) -> Path:
        """Do the work and return the folder written."""
        raise AssertionError(f"{type(self).__name__} defines no run()")

    def plan(self) -> list[str]:
        """Sentences that say what `run()` would do; nothing is written."""
        return [f"writes {self.out}"]

    def outlook(self) -> tuple[bool, str]:
        """Whether there is nothing to do any more, and what `run()` would find in its output folder, "" for nothing."""
        return False, ""


def _without_execution(config: BaseModel) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for name, field in type(config).model_fields.items():
        extra = field.json_schema_extra
        if isinstance(extra, dict) and extra.get("execution"):
            continue
        kept[field.alias or name] = json_ready(getattr(config, name))
    return kept


def key_of(model: type[BaseModel], name: str) -> str:
    """The key under which a user gives a field."""
    return model.model_fields[name].alias or name


def json_ready(value: Any) -> Any:
    """A value of a config as JSON can hold it."""
    if isinstance(value, BaseModel):
        return _without_execution(value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, dict):
        return {str(key): json_ready(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_ready(item) for item in value]
    return value


def load(verb: type[AnyVerb], file: Path | None, overrides: list[str]) -> AnyVerb:
    """Build a verb from a YAML file and `a.b=value` overrides.

    Raises:
        UserError: no such file, a file that is not YAML, an unknown key (with the nearest valid one), a wrong value.
    """
    tree = _read_tree(file, verb.verb_name()) if file is not None else {}
    for override in overrides:
        _set(tree, override)
    _fill_kinds(tree, verb)
    try:
        return verb.model_validate(plain_yaml.fitted(tree, verb))
    except ValidationError as error:
        raise UserError(explain(error, verb)) from None


def read_yaml(file: Path) -> dict[str, Any]:
    """The mapping in a YAML file, or a UserError that says why there is none; values as they read without a setting's type."""
    read: dict[str, Any] = plain_yaml.meant(_read_tree(file))
    return read


def _read_tree(file: Path, verb: str = "") -> dict[str, Any]:
    """The mapping in a YAML file, its unquoted scalars as they are written; `verb` is the one that it is for, if known."""
    file = config_file(file, verb)
    try:
        tree = plain_yaml.parse(read_bytes(file, MOST_YAML_BYTES).decode("utf-8-sig"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        where = str(error).replace("\n", " ")
        raise UserError(f"{file}: not a YAML file ({where}); mend it and run again.") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise UserError(f"{file}: holds a {type(tree).__name__}, not `key: value` lines.")
    return tree


def _fill_kinds(tree: dict[str, Any], model: type[BaseModel]) -> None:
    """Where a group of several kinds is given without `kind`, its default kind is meant."""
    for name, field in model.model_fields.items():
        group = tree.get(field.alias or name)
        kinds = {tag for below in models_in(field.annotation) if (tag := tag_of(below))}
        if isinstance(group, dict) and len(kinds) > 1 and not field.is_required():
            default = field.get_default(call_default_factory=True)
            group.setdefault("kind", getattr(default, "kind", None))


def _set(tree: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    if not equals or not path.strip():
        raise UserError(f"`{override}` is not of the form key=value (for nested keys: a.b=value).")
    try:
        value = plain_yaml.parse_value(text) if text.strip() else None
    except yaml.YAMLError:
        raise UserError(f"`{override}`: the value is not valid YAML; put quotes around it.") from None
    *parents, last = path.strip().split(".")
    node = tree
    for parent in parents:
        below = node.setdefault(parent, {})
        if not isinstance(below, dict):
            raise UserError(f"`{override}`: `{parent}` holds {below}, not a group of keys.")
        node = below
    node[last] = value


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """A validation error as one sentence per mistake, naming the key and the nearest valid one."""
    return "\n".join(dict.fromkeys(_sentence(item, model) for item in error.errors()))


def _sentence(item: ErrorDetails, model: type[BaseModel]) -> str:
    location = [str(part) for part in item["loc"]]
    context = item.get("ctx", {})
    if item["type"] == "extra_forbidden":
        known = _keys_at(model, location[:-1])
        near = difflib.get_close_matches(location[-1], known, n=1)
        hint = f"did you mean `{near[0]}`?" if near else f"known keys: {', '.join(sorted(known))}."
        return f"`{_dotted(location)}` is not a key of {_owner(model, location)}; {hint}"
    if item["type"] == "missing":
        return f"`{_dotted(location)}` is missing: give {_dotted(location)}=... ({_description(model, location)})."
    if item["type"] in ("union_tag_invalid", "union_tag_not_found"):
        return f"`{_dotted(location)}`: unknown or missing kind; the kinds are {context.get('expected_tags', '')}."
    if item["type"] == "value_error":
        prefix = f"`{_dotted(location)}`: " if location else ""
        return f"{prefix}{str(item['msg']).removeprefix('Value error, ')}"
    shown = repr(item["input"])
    shown = shown if len(shown) < 80 else shown[:77] + "..."
    return f"`{_dotted(location)}`: {item['msg'][0].lower()}{item['msg'][1:]} (got {shown})."


def _dotted(location: list[str]) -> str:
    return ".".join(location)


def _owner(model: type[BaseModel], location: list[str]) -> str:
    if len(location) > 1:
        return f"`{_dotted(location[:-1])}`"
    return f"`{model.verb_name() if issubclass(model, Verb) else model.__name__.lower()}`"


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """The groups of settings that a field of this type can hold."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) in (Union, types.UnionType, Annotated, tuple, list, dict):
        for part in get_args(annotation):
            yield from models_in(part)


def _models_at(model: type[BaseModel], location: list[str]) -> list[type[BaseModel]]:
    """The models a location may be in; parts that name no field (union tags, list positions) are stepped over."""
    models = [model]
    for part in location:
        below = [m for known in models if part in known.model_fields for m in models_in(_full(known, part))]
        if below:
            models = below
        elif tagged := [m for m in models if tag_of(m) == part]:
            models = tagged
    return models


def _full(model: type[BaseModel], name: str) -> Any:
    return model.model_fields[name].annotation


def tag_of(model: type[BaseModel]) -> str | None:
    """The `kind` of a group that is one of several."""
    field = model.model_fields.get("kind")
    return field.default if field is not None and isinstance(field.default, str) else None


def _keys_at(model: type[BaseModel], location: list[str]) -> list[str]:
    return [field.alias or name for group in _models_at(model, location) for name, field in group.model_fields.items()]


def _description(model: type[BaseModel], location: list[str]) -> str:
    for group in _models_at(model, location[:-1]):
        for name, field in group.model_fields.items():
            if location[-1] in (name, field.alias):
                return field.description or "no description"
    return "no description"
