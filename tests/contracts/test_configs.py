"""Every YAML that comes with gen3d is valid, starts with what a user must know, and names no machine."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from gen3d.core.config import load, read_yaml
from gen3d.verbs import VERBS, verb_class

CONFIGS = Path(__file__).parents[2] / "configs"
FILES = sorted(CONFIGS.rglob("*.yaml"))
NEEDED = {
    "out": "o",
    "source": "s",
    "prepared": "p",
    "run": "r",
    "inputs": "i",
    "maps": "m",
    "truth": "t",
    "latents": "l",
    "synthetic": "s",
    "reference": "p",
    "autoencoder": "a.pt",
    "head": "h",
    "target": "diagnosis",
    "models": "m",
    "name": "n",
}


def verb_of(file: Path) -> str:
    """configs/<verb>/name.yaml, or configs/debug/<verb>[_variant].yaml."""
    name = file.stem if file.parent.name == "debug" else file.parent.name
    return next(verb for verb in VERBS if f"{name}_".startswith(f"{verb.replace('-', '_')}_") or name == verb)


def needed(file: Path, given: dict[str, Any]) -> dict[str, str]:
    """What a user types beside the file."""
    if verb_of(file) == "genotypes":
        return {"out": "o", "source": "s", "table": "t"}
    if verb_of(file) != "train":
        already = ("prepared", "run") if "merge" in given else ("run",) if "norm" in given else ()
        already += ("maps",) if "forecasts" in given else ()
        return {key: value for key, value in NEEDED.items() if key not in already}
    diffusion = given["model"]["kind"] == "latent_diffusion"
    if given["model"]["kind"] == "fusion":
        return {"prepared": NEEDED["prepared"], "genotypes": "g", "out": NEEDED["out"]}
    if given["model"]["kind"] == "latent_flow":
        return {"prepared": NEEDED["prepared"], "vae": NEEDED["autoencoder"], "out": NEEDED["out"]}
    left_out = ("prepared",) if diffusion or "prepared" in given else ()
    left_out += ("latents",) if not diffusion or "prepared" in given else ()
    return {key: value for key, value in NEEDED.items() if key not in left_out}


def test_there_are_configs_for_every_verb() -> None:
    assert {verb_of(file) for file in FILES if file.parent.name == "debug"} >= set(VERBS) - {"demo"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(CONFIGS)))
def test_config_is_valid(file: Path) -> None:
    verb = verb_class(verb_of(file))
    given = read_yaml(file)
    aliases = {field.alias or name for name, field in verb.model_fields.items()}
    load(
        verb,
        file,
        [f"{key}={value}" for key, value in needed(file, given).items() if key in aliases and key not in given],
    )


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(CONFIGS)))
def test_config_says_what_a_user_must_know(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    head = "\n".join(line for line in text.splitlines() if line.startswith("#")).lower()
    for word in ("purpose:", "hardware:", "time:", "expect:"):
        assert word in head, f"{file}: its first comment lacks `{word}`"
    assert not re.search(r"(^|\s)/[a-z]+/", text), f"{file}: holds an absolute path"
