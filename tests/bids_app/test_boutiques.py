"""The Boutiques descriptor says what the command line takes, in the words of schema 0.5."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from gen3d.bids_app.app import main
from gen3d.bids_app.arguments import parser

REQUIRED = {"name", "description", "command-line", "schema-version", "inputs", "tool-version"}
ALLOWED = REQUIRED | {"output-files", "error-codes", "tags"}
OF_INPUT = {"id", "name", "type", "description", "value-key", "list", "optional", "command-line-flag", "value-choices"}
OF_NUMBERS = {"integer", "minimum"}
LABEL = re.compile(r"[0-9_a-zA-Z]+")


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("descriptor") / "gen3d-bids.json"
    with pytest.raises(SystemExit) as ended:
        main(["--boutiques", str(path)])
    assert ended.value.code == 0
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_it_has_what_the_schema_requires_and_nothing_else(described: dict[str, Any]) -> None:
    assert REQUIRED <= set(described) <= ALLOWED
    assert described["schema-version"] == "0.5"
    assert described["tags"]["bids-app"] == "true"
    for item in described["inputs"]:
        assert {"id", "name", "type"} <= set(item) <= OF_INPUT | OF_NUMBERS
        assert item["type"] in ("String", "File", "Flag", "Number")
        assert LABEL.fullmatch(item["id"])
        assert item["type"] != "Flag" or ("command-line-flag" in item and "list" not in item)
        assert not OF_NUMBERS & set(item) or item["type"] == "Number"
    for item in described["output-files"]:
        assert {"id", "name", "path-template"} <= set(item)


def test_every_key_of_the_command_line_is_an_input(described: dict[str, Any]) -> None:
    keys = re.findall(r"\[[A-Z_]+\]", described["command-line"])
    assert keys == [item["value-key"] for item in described["inputs"]]
    assert len(set(keys)) == len(keys)


def test_a_call_made_of_the_descriptor_is_one_that_the_app_takes(described: dict[str, Any]) -> None:
    """Every flag and positional with a value, put where the descriptor says."""
    values = {"level": "group", "n_cpus": "2", "mem_mb": "4000"}
    words: list[str] = []
    for item in described["inputs"]:
        value = item.get("value-choices", [values.get(item["id"], f"a_{item['id']}")])[-1]
        words += [item["command-line-flag"]] if "command-line-flag" in item else []
        words += [] if item["type"] == "Flag" else [value]
    given = parser().parse_args(words)
    assert (given.level, given.n_cpus, given.mem_mb, given.template_only) == ("group", 2, 4000, True)
    assert given.participant_label == ["a_participant_label"]
    assert given.norm == Path("a_norm")
