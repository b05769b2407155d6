"""What holds for every verb: a frozen config whose keys are explained, with help that answers and settings that are kept."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from gen3d.cli import main
from gen3d.core.artefact import digest
from gen3d.core.config import Config, Verb, load, read_yaml
from gen3d.core.help import describe
from gen3d.verbs import VERBS, verb_class
from tests.contracts.test_configs import FILES, needed, verb_of


def loaded(name: str) -> Verb:
    """A verb from one of the files that come with gen3d, and what a user types beside it."""
    file = next(file for file in FILES if verb_of(file) == name)
    verb, given = verb_class(name), read_yaml(file)
    aliases = {field.alias or key for key, field in verb.model_fields.items()}
    extra = {key: value for key, value in needed(file, given).items() if key in aliases and key not in given}
    return load(verb, file, [f"{key}={value}" for key, value in extra.items()])


@pytest.mark.parametrize("name", VERBS)
def test_it_is_one_documented_class(name: str) -> None:
    verb = verb_class(name)
    assert issubclass(verb, Verb)
    assert verb.__name__.lower() == name.replace("-", "")
    assert verb.run is not Verb.run
    assert len(inspect.getdoc(verb) or "") > 40
    assert verb.__doc__ != Verb.__doc__


@pytest.mark.parametrize("name", VERBS)
def test_every_key_is_explained(name: str) -> None:
    for key, _, _, description in describe(verb_class(name)):
        assert description.strip(), f"{name}: {key} has no description"


@pytest.mark.parametrize("name", [name for name in VERBS if name != "demo"])
def test_its_settings_are_frozen_and_their_key_is_stable(name: str) -> None:
    verb = loaded(name)
    with pytest.raises(ValidationError, match="frozen"):
        verb.out = Path("elsewhere")  # type: ignore[misc]
    for field in type(verb).model_fields:
        value = getattr(verb, field)
        if isinstance(value, Config):
            assert value.model_config["frozen"], f"{name}: {field} can be changed"
            assert value.model_config["extra"] == "forbid", f"{name}: {field} takes unknown keys"
    tree: Any = verb.model_dump(mode="json", by_alias=True)
    assert digest(type(verb).model_validate(tree).settings()) == digest(verb.settings())


@pytest.mark.parametrize("name", VERBS)
def test_help_answers(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    text = capsys.readouterr().out
    assert VERBS[name][-1] in text
    for key, *_ in describe(verb_class(name)):
        assert f"  {key}  <" in text
