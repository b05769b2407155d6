"""How tests are shared out among workers: a file that is renamed would silently lose its place and its group."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from tests.schedule import ONE_MACHINE, SECONDS, Schedule, seconds

TESTS = Path(__file__).parents[1]


def test_every_file_of_the_schedule_is_there() -> None:
    assert [name for name in (*SECONDS, *ONE_MACHINE) if not (TESTS / name).is_file()] == []


def test_long_files_come_first_and_what_takes_the_machine_stays_together() -> None:
    listed = list(SECONDS)
    assert listed == sorted(listed, key=lambda name: -seconds(f"tests/{name}::test_it[a::b]"))
    assert seconds("tests/core/test_tables.py::test_it") == 0

    def scope(name: str) -> str:
        return Schedule._split_scope(SimpleNamespace(), f"tests/{name}::test_it[a]")  # type: ignore[arg-type]

    assert scope("launch/test_slurm.py") == scope("sweep/test_on_slurm.py")
    assert scope("core/test_tables.py") != scope("core/test_pool.py") == scope("core/test_pool.py")
