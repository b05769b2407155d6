"""The processes of one training: who they are, and how they agree on what happened to any of them.

Torchrun sets RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT; nothing else is read. The global rank says who
a process is, the local rank which of its node's GPUs is its own; neither stands in for the other.
"""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from gen3d.core.errors import LostContact, UserError
from gen3d.core.launcher import environment_number, num_processes

Result = TypeVar("Result")

BROKEN = re.compile(r"peer|reset|timed? ?out|NCCL|gloo|socket|broken pipe|connect|abort", re.IGNORECASE)
SOURCE_PLACE = re.compile(r"^\[[^\]]*\] *")
TIMED_OUT = re.compile(r"timed? ?out", re.IGNORECASE)
ROLL_CALL_S = 2.0
_CONTROL: list[Any] = []
NEEDED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
LARGEST_PORT = 65535
LAUNCH = "start it with `torchrun --nproc-per-node N -m gen3d ...`, launch/node.sh or launch/slurm.sbatch"


@dataclass(frozen=True)
class Processes:
    """This process among the `num` processes of its training.

    `roster` names every process for people, `store` is where they met, and `control` is the CPU group they agree over.
    """

    rank: int = 0
    local_rank: int = 0
    num: int = 1
    timeout_s: float = 600.0
    roster: tuple[str, ...] = ()
    store: Any = field(default=None, repr=False)
    control: Any = field(default=None, repr=False)

    @property
    def first(self) -> bool:
        """Whether this process writes files, logs and sentences."""
        return self.rank == 0

    def gather(self, value: Result) -> list[Result]:
        """The value of every process, by rank, in every process."""
        if self.control is None:
            return [value]
        everybody: list[Any] = [None] * self.num
        with contact(self):
            dist.all_gather_object(everybody, value, group=self.control)
        return everybody

    def from_first(self, value: Result) -> Result:
        """The first process's value, in every process."""
        if self.control is None:
            return value
        box: list[Any] = [value]
        with contact(self):
            dist.broadcast_object_list(box, src=0, group=self.control)
        return cast(Result, box[0])

    def on_first(self, action: Callable[[], Result]) -> Result:
        """Do something in the first process only; its result, or its error, reaches every process.

        Raises:
            UserError: the action's own, or an OSError or another error of it in words.
        """
        if self.control is None:
            return action()
        result: Result | None = None
        failure: BaseException | None = None
        if self.first:
            try:
                result = action()
            except Exception as error:
                failure = error
        sent, sentence, code = self.from_first((failure is not None, str(failure), getattr(failure, "exit_code", None)))
        if sent:
            if failure is not None:
                raise failure
            raise elsewhere(sentence, code)
        return self.from_first(cast(Result, result))

    def together(self, action: Callable[[], Result]) -> Result:
        """Do something in every process; if it fails in one of them, it fails in all, with the culprit named."""
        if self.control is None:
            return action()
        result: Result | None = None
        failure: UserError | None = None
        try:
            result = action()
        except UserError as error:
            failure = error
        failures = self.gather((str(failure), failure.exit_code, host()) if failure is not None else None)
        bad = {rank: what for rank, what in enumerate(failures) if what is not None}
        if bad:
            sentences = {what[0] for what in bad.values()}
            alike = len(sentences) == 1 and len(bad) == self.num
            named = "\n".join(f"rank {rank} on {what[2]}: {what[0]}" for rank, what in bad.items())
            joint = UserError(sentences.pop() if alike else named)
            joint.shared = not self.first
            raise joint
        return cast(Result, result)

    def mean(self, values: Mapping[str, Tensor]) -> dict[str, float]:
        """Each value averaged over the processes, in one exchange."""
        names = list(values)
        if not names:
            return {}
        stacked = torch.stack([values[name].detach().double().cpu() for name in names])
        if self.control is not None:
            with contact(self):
                dist.all_reduce(stacked, group=self.control)
            stacked /= self.num
        return dict(zip(names, stacked.tolist(), strict=True))

    def sum_array(self, array: Any) -> Any:
        """A float64 NumPy array summed over the processes."""
        if self.control is None:
            return array
        tensor = torch.from_numpy(array)
        with contact(self):
            dist.all_reduce(tensor, group=self.control)
        return tensor.numpy()

    def largest(self, number: int) -> int:
        """The largest of a whole number over all processes."""
        if self.control is None:
            return number
        tensor = torch.tensor([number], dtype=torch.int64)
        with contact(self):
            dist.all_reduce(tensor, op=dist.ReduceOp.MAX, group=self.control)
        return int(tensor.item())

    def part(self) -> None:
        """Wait for everybody before a training ends; the group stays open for the next one of this start."""
        if self.control is not None:
            with contact(self):
                dist.barrier(group=self.control)


def launched() -> Processes:
    """What the environment says about this process, before it has met the others.

    Raises:
        UserError: some of what a launcher sets is missing, or a launcher started several processes that cannot meet.
    """
    num = num_processes()
    tasks = environment_number("SLURM_STEP_NUM_TASKS", 1) if "SLURM_PROCID" in os.environ else 1
    if num == 1 and "RANK" not in os.environ and tasks > 1 and "TORCHELASTIC_RUN_ID" not in os.environ:
        raise UserError(f"srun started {tasks} copies of this training that do not know of each other; {LAUNCH}.")
    if num == 1:
        return Processes()
    missing = [name for name in NEEDED if not os.environ.get(name)]
    if missing:
        raise UserError(
            f"WORLD_SIZE is {num}, but {' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not set, so the "
            f"processes cannot find each other; {LAUNCH}."
        )
    rank = environment_number("RANK", 0)
    if rank >= num:
        raise UserError(f"RANK is {rank}, but WORLD_SIZE is {num}, so the ranks end at {num - 1}; {LAUNCH}.")
    local_rank = environment_number("LOCAL_RANK", 0)
    if local_rank > rank:
        raise UserError(
            f"LOCAL_RANK is {local_rank}, but RANK is {rank}, and a process's number on its node is never larger; {LAUNCH}."
        )
    environment_number("MASTER_PORT", 1, least=1, most=LARGEST_PORT)
    return Processes(rank, local_rank, num)


def join(place: Processes, store: Any, roster: tuple[str, ...], backend: str, timeout_s: float) -> Processes:
    """The group of all processes, over a store that all have reached; every wait in it ends after `timeout_s`.

    It is opened once per start, since DeepSpeed keeps groups of its own that a second opening would leave dangling; and
    as it gives them no timeout, the default of `new_group` is set here.
    """
    timeout = timedelta(seconds=timeout_s)
    if not _CONTROL:
        with contact(place):
            dist.init_process_group(backend, store=store, rank=place.rank, world_size=place.num, timeout=timeout)
            _limit_new_groups(timeout)
            _CONTROL.append(dist.new_group(backend="gloo", timeout=timeout))
    return Processes(place.rank, place.local_rank, place.num, timeout_s, roster, store, _CONTROL[0])


def _limit_new_groups(timeout: timedelta) -> None:
    original = getattr(dist.new_group, "gen3d_original", dist.new_group)

    def new_group(*arguments: Any, **named: Any) -> Any:
        if named.get("timeout") is None and len(arguments) < 2:
            named["timeout"] = timeout
        return original(*arguments, **named)

    new_group.gen3d_original = original  # type: ignore[attr-defined]
    dist.new_group = new_group
    dist.distributed_c10d.new_group = new_group


class contact:
    """Within this context, an exchange that fails because a process is gone becomes a LostContact error."""

    def __init__(self, processes: Processes) -> None:
        self.processes = processes

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, (RuntimeError, dist.DistError)) and BROKEN.search(str(error)):
            raise lost(self.processes, error) from error


def lost(processes: Processes, error: BaseException) -> LostContact:
    """The error of a process that waited for one that is gone; the lowest rank left names those that do not answer."""
    lines = SOURCE_PLACE.sub("", str(error).strip()).splitlines() or [type(error).__name__]
    ending = f"({lines[0].split('. ')[0][:160]}). What was saved is kept; the same command goes on from it."
    answering = None if TIMED_OUT.search(str(error)) else _roll_call(processes)
    if answering is None:
        return LostContact(
            f"rank {processes.rank} on {host()} waited in vain for another process: it was killed, its node is down, or "
            f"it took longer than timeout_s={processes.timeout_s:g} {ending}"
        )
    answered, silent = answering
    gone = " and ".join(processes.roster[rank] for rank in silent) or "another process"
    failure = LostContact(f"{gone} ended or was killed, so the others cannot go on {ending}")
    failure.shared = processes.rank != min(answered)
    return failure


def _roll_call(processes: Processes) -> tuple[list[int], list[int]] | None:
    """Ranks that answer within ROLL_CALL_S and ranks that do not; None when the store itself is gone."""
    if processes.store is None or not processes.roster:
        return None
    try:
        processes.store.set(f"alive/{processes.rank}", "1")
        end = time.monotonic() + ROLL_CALL_S
        while True:
            answered = [rank for rank in range(processes.num) if processes.store.check([f"alive/{rank}"])]
            if len(answered) == processes.num or time.monotonic() > end:
                return answered, [rank for rank in range(processes.num) if rank not in answered]
            time.sleep(0.1)
    except (RuntimeError, dist.DistError, OSError):
        return None


def elsewhere(sentence: str, exit_code: int | None) -> UserError:
    """In every other process: the error that the first one met and reports."""
    error = UserError(sentence)
    error.exit_code = exit_code or UserError.exit_code
    error.shared = True
    return error


def host() -> str:
    """Name of this machine."""
    return socket.gethostname()
