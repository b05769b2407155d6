"""Which tests stay together in one of several worker processes, and the order in which the workers take them."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest

ONE_MACHINE = {
    "launch/test_slurm.py": "a cluster",
    "sweep/test_on_slurm.py": "a cluster",
    "launch/test_two_hosts.py": "two hosts",
}
"""Files that take the whole machine's ports, names or services, by what they start: files of one group never run at once."""

SECONDS = {
    "end_to_end/test_story.py": 400,
    "end_to_end/test_debug_configs.py": 200,
}
"""CPU seconds of the files that take longest. The longest start first, so that no worker is left alone with one of them."""


def file_of(item: pytest.Item) -> str:
    """A test's file, relative to the folder of the tests."""
    return PurePosixPath(item.nodeid.split("::")[0].removeprefix("tests/")).as_posix()


def group_and_sort(items: list[pytest.Item]) -> None:
    """Keep the tests of a file together, because they share what the file's fixtures made, and put long files first."""
    for item in items:
        file = file_of(item)
        item.add_marker(pytest.mark.xdist_group(ONE_MACHINE.get(file, file)))
    items.sort(key=lambda item: -SECONDS.get(file_of(item), 0))
