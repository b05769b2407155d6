"""The Boutiques descriptor of `gen3d-bids`, made of its arguments, so that the two never differ.

Schema 0.5 of Boutiques (Glatard et al. 2018, GigaScience 7:giy016): other software runs a tool by such a file.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from gen3d import __version__
from gen3d.core.artefact import write_json
from gen3d.core.progress import say

SCHEMA = "0.5"
NOT_INPUTS = ("help", "version", "boutiques", "traceback")
FOLDERS = ("bids_dir", "norm")
"""Arguments that name what must be there; the others of type path may be made."""

ERRORS = {
    2: "a mistake in the arguments or the dataset",
    3: "done, but some participants or scans could not be used",
    130: "stopped; the same command goes on",
    143: "stopped by SIGTERM; the same command goes on",
}


def descriptor(parser: argparse.ArgumentParser) -> dict[str, Any]:
    """The descriptor of a parser, JSON-ready."""
    actions = [action for action in parser._actions if action.dest not in NOT_INPUTS]
    return {
        "name": parser.prog,
        "description": str(parser.description),
        "tool-version": __version__,
        "schema-version": SCHEMA,
        "command-line": " ".join([parser.prog, *(_key(action) for action in actions)]),
        "inputs": [_input(action) for action in actions],
        "output-files": [
            {
                "id": "derivatives",
                "name": "Derivatives dataset",
                "description": "z maps, masks, region tables and pages, as a BIDS derivatives dataset",
                "path-template": "[OUT]",
            }
        ],
        "error-codes": [{"code": code, "description": text} for code, text in ERRORS.items()],
        "tags": {"domain": ["neuroinformatics", "mri"], "bids-app": "true"},
    }


def write_descriptor(parser: argparse.ArgumentParser, path: Path) -> None:
    """Write the descriptor as a file."""
    write_json(path, descriptor(parser))
    say(f"{path}: Boutiques descriptor of {parser.prog} {__version__}, schema {SCHEMA}.")


def _key(action: argparse.Action) -> str:
    return f"[{action.dest.upper()}]"


def _input(action: argparse.Action) -> dict[str, Any]:
    described: dict[str, Any] = {
        "id": action.dest,
        "name": action.dest.replace("_", " "),
        "description": str(action.help),
        "type": _type(action),
        "value-key": _key(action),
        "optional": bool(action.option_strings) and not action.required,
    }
    if action.option_strings:
        described["command-line-flag"] = action.option_strings[0]
    if action.choices:
        described["value-choices"] = list(action.choices)
    if action.nargs == "+":
        described["list"] = True
    if described["type"] == "Number":
        described |= {"integer": True, "minimum": 1}
    return described


def _type(action: argparse.Action) -> str:
    if action.nargs == 0:
        return "Flag"
    if action.dest in FOLDERS:
        return "File"
    return "Number" if action.dest in ("n_cpus", "mem_mb") else "String"
