"""The settings that come with gen3d, and the file that a user means by `configs/<verb>/<name>.yaml`."""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass
from pathlib import Path

from gen3d.core.errors import UserError
from gen3d.core.package_data import CONFIGS, MEND, configs_folder
from gen3d.core.progress import note

DEBUG = "debug"
HEADS = ("Purpose", "Hardware", "Time", "Expect")


@dataclass(frozen=True)
class StartingPoint:
    """A YAML file to start from: its place below configs/, verb, what its first comment says, and its text."""

    path: str
    verb: str
    head: dict[str, str]
    text: str

    @property
    def purpose(self) -> str:
        """What it is for."""
        return self.head.get("Purpose", "")


def names_below(configs: Path) -> list[str]:
    """The places of all settings below a folder `configs`: `train/pca.yaml`, those of `debug` last."""
    names = [path.relative_to(configs).as_posix() for path in configs.glob("*/*.yaml")]
    return sorted(names, key=lambda name: (name.startswith(f"{DEBUG}/"), name))


def verb_of(name: str) -> str:
    """The verb of `train/pca.yaml` or `debug/train_pca.yaml`."""
    folder, _, file = name.partition("/")
    return folder if folder != DEBUG else file.removesuffix(".yaml").partition("_")[0]


def read_starting_point(configs: Path, name: str) -> StartingPoint:
    """The settings at a place below a folder `configs`."""
    text = (configs / name).read_text(encoding="utf-8")
    comments = [line.removeprefix("#").strip() for line in text.split("\n") if line.startswith("#")]
    head: dict[str, str] = {}
    for line in comments:
        key, _, rest = line.partition(":")
        if key in HEADS:
            head[key] = rest.strip()
        elif head:
            head[list(head)[-1]] += f" {line}"
    return StartingPoint(name, verb_of(name), head, text)


def starting_points_of(verb: str) -> list[StartingPoint]:
    """The settings that come with gen3d for a verb, those of `debug` last."""
    configs = configs_folder()
    return [read_starting_point(configs, name) for name in names_below(configs) if verb_of(name) == verb]


def config_file(file: Path, verb: str = "") -> Path:
    """The configuration file that a user names.

    A relative `configs/...` that is not in the working directory is that of gen3d itself, and a line says so.

    Args:
        file: as it was given.
        verb: the verb that it is for, for the sentence; "": not known.

    Raises:
        UserError: it is in neither place; names the nearest that comes with gen3d.
    """
    if file.is_file():
        return file
    configs = configs_folder()
    own = file.parts[:1] == (CONFIGS,) and ".." not in file.parts
    if own and not os.path.lexists(file):  # whatever lies there under this name is meant, though it cannot be read
        place = configs.joinpath(*file.parts[1:])
        if place.is_file():
            note(f"{file}: not in the working directory; reading {place}, which comes with gen3d.")
            return place
        if not configs.is_dir():
            raise UserError(f"{file}: no such configuration file, and {configs} is not there either, {MEND}")
    near = _nearest(file, names_below(configs), verb)
    listed = verb or (verb_of(near) if near else "<verb>")
    hint = f"; did you mean {CONFIGS}/{near}?" if near else "."
    raise UserError(
        f"{file}: no such configuration file; `gen3d {listed} --help` lists those that come with gen3d{hint}"
    )


def _nearest(file: Path, names: list[str], verb: str) -> str:
    """The settings whose name is most like that of a file: of the folder it names, else of the verb, else of all."""
    folder = [name for name in names if name.partition("/")[0] == file.parent.name]
    candidates = folder or [name for name in names if verb_of(name) == verb] or names
    by_stem = {Path(name).stem: name for name in reversed(candidates)}  # of two, the one that is not in debug/
    near = difflib.get_close_matches(file.stem, by_stem, n=1)
    return by_stem[near[0]] if near else ""
