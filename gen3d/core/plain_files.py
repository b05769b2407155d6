"""JSON and YAML read with their claims checked: of bounded size and depth, no key twice, no alias that unfolds without end.

What is wrong is a `ValueError` whose text is a reason, so that every reader adds its own file, remedy and way of saying it.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from gen3d.core.errors import UserError
from gen3d.core.files import UnusableFile, open_regular, shown

GIB = 1 << 30
LIMIT_VARIABLE = "GEN3D_LIMIT_GIB"
DEFAULT_LIMIT_GIB = 1.0
MOST_YAML_BYTES = 16 << 20
MOST_NODES = 200_000
"""Values of a YAML file with every alias written out; settings have a few hundred."""
MOST_DEPTH = 100
"""Levels of lists and groups within each other; gen3d's own files have fewer than ten."""


def most_bytes() -> int:
    """Bytes that one file of text, or one compressed file when unpacked, may need: GEN3D_LIMIT_GIB, or 1 GiB.

    Raises:
        UserError: GEN3D_LIMIT_GIB is no number above 0.
    """
    given = os.environ.get(LIMIT_VARIABLE, "").strip()
    try:
        gib = float(given) if given else DEFAULT_LIMIT_GIB
    except ValueError:
        gib = math.nan
    if not 0 < gib < math.inf:
        raise UserError(f"{LIMIT_VARIABLE}={given!r}: not a number of GiB above 0; correct it or unset it.")
    return int(gib * GIB)


def too_large(num_bytes: int, limit: int) -> ValueError:
    """The reason why a file is not read."""
    return ValueError(
        f"it needs {num_bytes / GIB:.3g} GiB and {limit / GIB:.3g} GiB are allowed; set {LIMIT_VARIABLE} if it is sound"
    )


def read_bytes(path: Path, limit: int | None = None) -> bytes:
    """The bytes of a regular file of bounded size.

    Raises:
        OSError: missing or no regular file.
        ValueError: larger than `limit` (default: `most_bytes`).
    """
    allowed = most_bytes() if limit is None else limit
    try:
        with open_regular(path) as stream:
            size = os.fstat(stream.fileno()).st_size
            if size > allowed:
                raise too_large(size, allowed)
            return stream.read(size)
    except UnusableFile as error:  # its sentence names the file, as that of the caller does
        raise OSError(str(error).removeprefix(f"{shown(path)}: ").removesuffix(".")) from None
    except OSError as error:
        raise OSError(error.strerror or str(error)) from None


def load_json(path: Path, finite: bool = False) -> Any:
    """What a JSON file holds.

    Args:
        path: of the file.
        finite: whether its numbers are computed with, so that NaN, infinity and numbers beyond any float are refused.

    Raises:
        OSError: missing or no regular file.
        ValueError: not JSON in UTF-8, a key twice, too deep, too large, or a number that is not finite; with the reason.
    """
    return parse_json(read_bytes(path), finite)


def load_object(path: Path, finite: bool = False) -> dict[str, Any]:
    """As `load_json`, of a file that holds an object.

    Raises:
        OSError, ValueError: as `load_json`, or something else than an object.
    """
    value = load_json(path, finite)
    if not isinstance(value, dict):
        raise ValueError(f"holds a {type(value).__name__}, not `key: value` pairs")
    return value


def load_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a log, one per line; what is none, such as a last line cut off by an interruption, is left out.

    Raises:
        OSError: missing or no regular file.
        ValueError: too large.
    """
    entries = []
    for line in read_bytes(path).splitlines():
        try:
            entry = parse_json(line)
        except ValueError:
            continue
        entries += [entry] if isinstance(entry, dict) else []
    return entries


def parse_json(content: bytes | str, finite: bool = False) -> Any:
    """JSON as a value; see `load_json`."""
    text = content.decode("utf-8-sig") if isinstance(content, bytes) else content
    try:
        value = json.loads(text, object_pairs_hook=_without_twins)
    except json.JSONDecodeError:
        raise ValueError("not JSON") from None
    except RecursionError:
        raise ValueError("lists within lists without end") from None
    _check_depth(value, finite)
    return value


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key `{next(name for name in names if names.count(name) > 1)}` is given twice")
    return value


def _check_depth(value: Any, finite: bool) -> None:
    """Walk over a value without recursion: its depth, and where `finite` its numbers."""
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > MOST_DEPTH:
            raise ValueError("lists within lists without end")
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                below += item.values()
            elif isinstance(item, list):
                below += item
            elif finite and isinstance(item, float) and not math.isfinite(item):
                raise ValueError(f"holds the number {item}")
        level = below


class BoundedLoader(yaml.SafeLoader):
    """YAML whose keys stand once."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key, _ in node.value:
            name = (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else None
            if name in seen and key.tag != "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key `{key.value}` is given twice", key.start_mark
                )
            seen.add(name)
        return super().construct_mapping(node, deep)


def load_yaml(path: Path) -> Any:
    """What a YAML file holds, None if nothing.

    Raises:
        OSError: missing or no regular file.
        ValueError: not YAML in UTF-8, a key twice, too deep, too large, or unfolded beyond all measure; with the reason.
    """
    return parse_yaml(read_bytes(path, MOST_YAML_BYTES).decode("utf-8-sig"))


def parse_yaml(text: str, loader_type: type[BoundedLoader] = BoundedLoader) -> Any:
    """YAML as a value; see `load_yaml`."""
    try:
        loader = loader_type(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            if _num_nodes(node, {}, 0) > MOST_NODES:
                raise ValueError(f"it unfolds to more than {MOST_NODES:,} values")
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None
    except RecursionError:
        raise ValueError("lists within lists without end") from None
    except (AttributeError, TypeError, OverflowError) as error:  # PyYAML on a tag that its value does not fit
        raise ValueError(f"a tag that its value does not fit: {error}") from None


def _num_nodes(node: yaml.Node, known: dict[int, int], depth: int) -> int:
    """Values below a node with every alias written out; counted once per node, so that counting is not endless itself."""
    if id(node) in known:
        if not known[id(node)]:
            raise ValueError("an alias that holds itself")
        return known[id(node)]
    if depth > MOST_DEPTH:
        raise ValueError("lists within lists without end")
    known[id(node)] = 0
    parts: list[yaml.Node] = []
    if isinstance(node, yaml.SequenceNode):
        parts = list(node.value)
    elif isinstance(node, yaml.MappingNode):
        parts = [part for pair in node.value for part in pair]
    known[id(node)] = 1 + sum(_num_nodes(part, known, depth + 1) for part in parts)
    return known[id(node)]
