"""Before the first step: is every process there, with the same gen3d, the same settings, the same data and a device?

The answers travel over the store that the launcher set up, not over a collective: a process that is missing or that
failed is named within PATIENCE_S seconds (or the configured timeout, if that is shorter), while a collective would only wait.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from itertools import count
from typing import Any

import torch
import torch.distributed as dist

from gen3d import __version__
from gen3d.core.errors import UserError
from gen3d.core.progress import say
from gen3d.train.engine.processes import LAUNCH, Processes, contact, host, join, launched

PATIENCE_S = 60.0
_MEETINGS = count()
PROBE_VALUES = 2**22
PROBE_REPEATS = 3


def meet(place: Processes, inspect: Callable[[], Mapping[str, str]], timeout_s: float) -> Processes:
    """Meet the other processes, compare notes, and open the group.

    Args:
        place: this process, as the environment describes it.
        inspect: looks at what must be the same everywhere (settings, data, backend) and returns {what: fingerprint}; a
            UserError in it is reported by rank 0 with this process's name. `backend` is nccl or gloo.
        timeout_s: longest wait of any exchange, seconds; that for a process to come is PATIENCE_S at most.

    Raises:
        UserError: in every process, when one of them is missing, failed, or differs from rank 0.
    """
    if place.num == 1:
        inspect()
        return place
    sentence, notes = "", dict[str, str]()
    try:
        notes = dict(inspect())
    except UserError as error:
        sentence = str(error)
    patience_s = min(PATIENCE_S, timeout_s)
    store = _store(place, patience_s)
    roster = compare_notes(place, store, notes, sentence, patience_s)
    backend = notes["backend"]
    processes = join(place, store, roster, backend, timeout_s)
    say(
        f"preflight: {place.num} processes ({', '.join(sorted({line.split(' on ')[1].split(' ')[0] for line in roster}))}), "
        f"same gen3d, settings and data; all-reduce over {backend} {_bandwidth(processes, backend):.2f} GB/s."
    )
    return processes


def report_failure(sentence: str) -> UserError:
    """Inform the other processes that this one cannot begin; returns the error that all of them raise."""
    try:
        place = launched()
        compare_notes(place, _store(place, PATIENCE_S), {}, sentence, PATIENCE_S)
    except UserError as error:
        return error
    raise AssertionError("a failed process cannot pass the preflight")


def compare_notes(
    place: Processes, store: Any, notes: Mapping[str, str], sentence: str, patience_s: float
) -> tuple[str, ...]:
    """Exchange notes over the store; returns every process's name by rank, or raises what is wrong, everywhere."""
    mine = {"host": host(), "pid": os.getpid(), "sentence": sentence, "notes": {"gen3d": __version__, **notes}}
    try:
        store.set(f"note/{place.rank}", json.dumps(mine))
        if place.first:
            wrong, roster = _judge(_collect(store, place.num, patience_s), patience_s)
            store.set("verdict", json.dumps([wrong, roster]))
        store.wait(["verdict"], timedelta(seconds=patience_s + 10))
        wrong, roster = json.loads(store.get("verdict"))
    except (RuntimeError, dist.DistError, OSError):
        raise UserError(
            f"rank {place.rank} on {host()}: rank 0 gave no sign for {patience_s + 10:g} s; look at the first node's log."
        ) from None
    if wrong:
        error = UserError(wrong)
        error.shared = not place.first
        raise error
    return tuple(roster)


def _collect(store: Any, num: int, patience_s: float) -> list[dict[str, Any] | None]:
    """The notes of every process by rank; None for one that did not come in time."""
    end = time.monotonic() + patience_s
    collected: list[dict[str, Any] | None] = []
    for rank in range(num):
        try:
            store.wait([f"note/{rank}"], timedelta(seconds=max(0.1, end - time.monotonic())))
            collected.append(json.loads(store.get(f"note/{rank}")))
        except (RuntimeError, dist.DistError):
            collected.append(None)
    return collected


def _judge(collected: list[dict[str, Any] | None], patience_s: float = PATIENCE_S) -> tuple[str, list[str]]:
    """What is wrong, one line per process and cause ('' if nothing is), and the processes' names."""
    silent = [rank for rank, note in enumerate(collected) if note is None]
    known = {rank: note for rank, note in enumerate(collected) if note is not None}
    roster = [
        f"rank {rank} on {note['host']} (process {note['pid']})" if note else f"rank {rank}"
        for rank, note in enumerate(collected)
    ]
    if silent:
        names = ", ".join(str(rank) for rank in silent)
        return (
            f"rank {names} of {len(collected)} did not come within {patience_s:g} s; look at its node and its log, "
            "then start again."
        ), roster
    failures = {rank: note["sentence"] for rank, note in known.items() if note["sentence"]}
    if failures:
        if len(failures) == len(collected) and len(set(failures.values())) == 1:
            return next(iter(failures.values())), roster
        return "\n".join(f"rank {rank} on {known[rank]['host']}: {text}" for rank, text in failures.items()), roster
    reference = known[0]["notes"]
    lines = [
        f"rank {rank} on {note['host']} has another {what} ({note['notes'].get(what)}) than rank 0 on "
        f"{known[0]['host']} ({value}); every node needs the same."
        for rank, note in known.items()
        for what, value in reference.items()
        if note["notes"].get(what) != value
    ]
    return "\n".join(lines), roster


def _store(place: Processes, patience_s: float) -> Any:
    """A store that all processes of this start share; a restart begins with an empty one."""
    try:
        store, _, _ = next(
            iter(dist.rendezvous("env://", place.rank, place.num, timeout=timedelta(seconds=patience_s)))
        )
    except (RuntimeError, ValueError, dist.DistError) as error:
        where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        reason = str(error).strip().splitlines()[0][:120]
        raise UserError(
            f"rank {place.rank} on {host()} found no process at {where} within {patience_s:g} s ({reason}); check that the "
            f"first node is up and reachable under that name, and {LAUNCH}."
        ) from None
    # torchrun makes a new store for every attempt if it may not share its own; then its count of restarts, which each
    # node keeps for itself, must not enter: a node that only joins the restart of another has a lower one.
    fresh = os.environ.get("TORCH_DISABLE_SHARE_RDZV_TCP_STORE") == "1"
    attempt = "" if fresh else os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return dist.PrefixStore(f"gen3d/{attempt}/{next(_MEETINGS)}", store)


def _bandwidth(processes: Processes, backend: str) -> float:
    """Bytes per second that one process sends in a ring all-reduce, GB/s."""
    device = torch.device("cuda", processes.local_rank) if backend == "nccl" else torch.device("cpu")
    values = torch.ones(PROBE_VALUES, device=device)
    with contact(processes):
        dist.all_reduce(values)
        began = time.perf_counter()
        for _ in range(PROBE_REPEATS):
            dist.all_reduce(values)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    seconds = (time.perf_counter() - began) / PROBE_REPEATS
    sent = 2 * (processes.num - 1) / processes.num * values.numel() * values.element_size()
    return sent / seconds / 1e9
