"""What grows with the square of the scans is announced, and refused where it does not fit."""

from __future__ import annotations

import numpy as np
import pytest

from gen3d.cohort.duplicates import find_duplicates
from gen3d.core.errors import UserError
from gen3d.core.memory import BYTES_OF_GIB, MEMORY_VARIABLE, WITH_SCANS, allowed_memory, announce_memory
from gen3d.quality.distances import _pool


def test_more_memory_than_there_is_is_refused_with_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MEMORY_VARIABLE, "0.5")
    with pytest.raises(
        UserError, match=r"^the pairs need 3\.0 GiB .*0\.5 GiB may be used; give fewer scans, or set GEN3D_MEMORY"
    ):
        announce_memory("the pairs", 3 * BYTES_OF_GIB, "give fewer scans")


def test_much_is_said_before_it_begins_and_little_is_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(MEMORY_VARIABLE, "10")
    announce_memory("the pairs", 1000, "give fewer scans")
    assert capsys.readouterr().out == ""
    announce_memory("the pairs", 3 * BYTES_OF_GIB, "give fewer scans")
    assert "the pairs need 3.0 GiB of memory" in capsys.readouterr().out


@pytest.mark.parametrize("given", ["much", "0", "-1", "nan", "inf"])
def test_a_limit_that_is_no_number_is_refused(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MEMORY_VARIABLE, given)
    with pytest.raises(UserError, match=f"{MEMORY_VARIABLE}="):
        allowed_memory()


def test_the_limit_is_what_is_free_now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(MEMORY_VARIABLE, raising=False)
    free = allowed_memory()
    assert free is None or 0 < free < 1 << 50


def test_duplicates_and_distances_ask_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MEMORY_VARIABLE, "0.0001")
    values = np.random.default_rng(0).standard_normal((60, 40))
    with pytest.raises(UserError, match="the components of 60 people"):
        find_duplicates(values, [f"p{row}" for row in range(60)])
    with pytest.raises(UserError, match="the kernels of 120 scans"):
        _pool([values[:, None], values[:, None]])


def test_a_sentence_says_how_memory_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MEMORY_VARIABLE, "1")
    with pytest.raises(
        UserError, match=r"the latents of 9 scans need 2\.0 GiB of memory \(they grow with the number of scans\)"
    ):
        announce_memory("the latents of 9 scans", 2 << 30, "give fewer", WITH_SCANS)
