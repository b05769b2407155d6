"""What the environment says of a process, and what one process alone needs no others for."""

from __future__ import annotations

import re
import sys

import numpy as np
import pytest
import torch

from gen3d.core.errors import UserError
from gen3d.models.normative.vae import VAEConfig
from gen3d.train.engine.config import EngineConfig
from gen3d.train.engine.preflight import _judge
from gen3d.train.engine.processes import NEEDED, Processes, launched
from gen3d.train.engine.start import start_engine
from gen3d.train.optim import OptimConfig
from tests.train.plans import task_of

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "node1", "MASTER_PORT": "29500"}


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*NEEDED, "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)


def test_the_global_rank_is_not_the_local_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert launched() == Processes(0, 0, 1)
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    assert (launched().rank, launched().local_rank, launched().num, launched().first) == (3, 1, 4, False)


def test_a_missing_rendezvous_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.setenv(name, TORCHRUN[name])
    with pytest.raises(UserError, match=r"WORLD_SIZE is 4, but MASTER_ADDR and MASTER_PORT are not set, .*torchrun"):
        launched()


def test_copies_started_by_srun_alone_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "8")
    with pytest.raises(UserError, match="srun started 8 copies of this training that do not know of each other"):
        launched()
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    assert launched().num == 1


def test_without_deepspeed_the_sentence_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    engine = EngineConfig(kind="deepspeed", device="cpu")
    with pytest.raises(UserError, match=r"needs DeepSpeed .*pip install 'gen3d\[deepspeed\]'"):
        start_engine(engine, task_of(VAEConfig(levels=2), (12, 12, 12)), OptimConfig())


def test_one_process_exchanges_with_itself() -> None:
    alone = Processes()
    assert alone.gather("a") == ["a"]
    assert alone.on_first(lambda: 3) == alone.together(lambda: 3) == alone.from_first(3) == alone.largest(3) == 3
    assert alone.mean({"loss": torch.tensor(2.5)}) == {"loss": 2.5}
    assert alone.sum_array(np.ones(2)).tolist() == [1.0, 1.0]


def test_the_verdict_names_every_process_that_differs_failed_or_is_missing() -> None:
    def note(host: str, sentence: str = "", **notes: str) -> dict[str, object]:
        return {"host": host, "pid": 7, "sentence": sentence, "notes": {"gen3d": "1", "settings": "s", **notes}}

    wrong, roster = _judge([note("n1"), note("n1"), note("n2")])
    assert wrong == ""
    assert roster[2] == "rank 2 on n2 (process 7)"
    wrong, _ = _judge([note("n1"), note("n1", gen3d="2"), note("n2", settings="t")])
    assert (
        wrong.splitlines()[0] == "rank 1 on n1 has another gen3d (2) than rank 0 on n1 (1); every node needs the same."
    )
    assert "rank 2 on n2 has another settings (t)" in wrong
    assert _judge([note("n1"), None, None])[0].startswith("rank 1, 2 of 3 did not come within 60 s")
    assert _judge([note("n1", "no such folder"), note("n2", "no such folder")])[0] == "no such folder"
    assert _judge([note("n1"), note("n2", "no such folder")])[0] == "rank 1 on n2: no such folder"


@pytest.mark.parametrize(
    ("num_processes", "at_once", "expected"),
    [(1, 0, 1), (1, 1, 12), (4, 0, 1), (4, 1, 3), (12, 1, 1), (2, 3, 2)],
)
def test_parts_follow_from_batch_processes_and_memory(num_processes: int, at_once: int, expected: int) -> None:
    assert EngineConfig(volumes_at_once=at_once).parts(12, num_processes) == expected


def test_a_checkpoint_of_another_network_or_version_is_refused() -> None:
    small, large = (task_of(VAEConfig(levels=levels), (12, 12, 12)).to_empty(device="cpu") for levels in (1, 2))
    engine = start_engine(EngineConfig(device="cpu"), small, OptimConfig())
    state = engine.state()
    assert state is not None
    for other, task in ((state, large), ({"weights": state["weights"], "optimisers": {}}, small)):
        with pytest.raises(UserError, match=r"weights of another network, or was written by another version of gen3d"):
            start_engine(EngineConfig(device="cpu"), task, OptimConfig(), state=other)


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("RANK", "first", "RANK is 'first', not a whole number from 0 on"),
        ("RANK", "4", "RANK is 4, but WORLD_SIZE is 4, so the ranks end at 3"),
        ("LOCAL_RANK", "-1", "LOCAL_RANK is '-1', not a whole number from 0 on"),
        ("WORLD_SIZE", "4.0", "WORLD_SIZE is '4.0', not a whole number from 1 on"),
    ],
)
def test_a_launcher_that_sets_nonsense_is_told(
    name: str, value: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for known, usual in TORCHRUN.items():
        monkeypatch.setenv(known, usual)
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=re.escape(sentence)):
        launched()
