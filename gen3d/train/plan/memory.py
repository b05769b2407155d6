"""The memory of one process in a training step, estimated without data, without a GPU and without computing anything.

The step runs on torch's meta device: every operation of the forward and the backward pass happens, with shapes and types
but without numbers, and the bytes of all tensors alive at a time are added up. What is counted is therefore what a real
step holds: tensors that autograd saves, in their own precision, gradients of feature maps, and with gradient
checkpointing the borders between blocks and one recomputed block.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node, get_gradient_edge
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from gen3d.models.base import BaseModelConfig
from gen3d.models.task import Batch, Task
from gen3d.train.optim import OptimConfig
from gen3d.train.plan.sharding import Sizes, StateBytes, Traffic, state_bytes, traffic

GIB = 2**30

FIXED_BYTES = {"cpu": 7 * GIB // 8, "cuda": GIB}
"""Allowance: Python, torch, its libraries and what they keep on a CPU (0.5 GiB before the first step); CUDA's context, cuDNN
and NCCL on a GPU (not measured)."""

FRAGMENTS = {"cpu": 0.6, "cuda": 0.05}
"""Allowance for gaps between the allocator's blocks, as a share of the activations; on CPUs freed memory is kept. Set with
FIXED_BYTES so that the plan covers the resident size in every row of analysis/benchmarks/memory.py, which varies by a tenth
from run to run; not measured on a GPU."""

CONVOLUTION_COPIES = {torch.float32: 1, torch.bfloat16: 2}
"""Copies of its input and of its output's gradient that the backward pass of a convolution makes, in a layout of its own;
one less where channels lie last already. Measured with oneDNN on a CPU (torch 2.13, 24 x 32 x 24 voxels, 1 to 64 channels,
kernels of 1 to 4 voxels) and assumed of cuDNN, whose choice of algorithm depends on the GPU."""

IN_BFLOAT16 = frozenset(
    ("conv3d", "conv_transpose3d", "linear", "matmul", "bmm", "mm", "addmm", "einsum", "scaled_dot_product_attention")
)
"""Functions that autocast computes in bfloat16, of those our networks use."""

IN_FLOAT32 = {
    "cpu": frozenset(("prod", "mse_loss", "avg_pool3d")),
    "cuda": frozenset(
        ("group_norm", "layer_norm", "norm", "interpolate", "exp", "log", "pow", "sum", "cumsum", "prod")
    ),
}
"""Functions that autocast computes in float32 (torch 2.8 to 2.13, ATen/autocast_mode.h). On GPUs this holds for group
normalisation and for repeating voxels, whose results take twice the memory that they take on a CPU."""


@dataclass(frozen=True)
class StepSettings:
    """What of a training's settings matters for the memory and the communication of a step.

    `volumes_at_once` = 0 is a process's whole share of the batch; `bucket_values` is DeepSpeed's reduce_bucket_size.
    The batch must divide evenly into processes and parts (`EngineConfig.parts` refuses others).
    """

    model: BaseModelConfig
    optim: OptimConfig
    device: str = "cpu"
    precision: torch.dtype = torch.float32
    channels_last: bool = False
    zero: int = 0
    num_processes: int = 1
    volumes_at_once: int = 0
    bucket_values: int = 2**25

    @property
    def share(self) -> int:
        """Volumes of a process in a step."""
        return self.optim.batch_size // self.num_processes

    @property
    def at_once(self) -> int:
        """Volumes that a process computes at once."""
        return self.volumes_at_once or self.share

    @property
    def num_parts(self) -> int:
        """Parts in which a process computes its share of a step."""
        return self.share // self.at_once


@dataclass(frozen=True)
class Memory:
    """Bytes of one process at the fullest moment of a step."""

    state: StateBytes
    activations: int
    allowance: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.state.lasting + self.passing + self.allowance

    @property
    def passing(self) -> int:
        """What comes and goes: the activations, or the gradients on their way when that takes more."""
        return max(self.activations, self.state.exchanged)


class MemoryEstimator:
    """Estimates for one training under different settings; steps that were run on the meta device are remembered."""

    def __init__(self, build: Callable[[BaseModelConfig], Task]) -> None:
        """`build` makes the task of a model's settings; it is called under `torch.device("meta")`."""
        self._build = build
        self._tasks: dict[str, Task] = {}
        self._activations: dict[tuple[Any, ...], int] = {}

    def task(self, model: BaseModelConfig) -> Task:
        """The task on the meta device."""
        key = model.model_dump_json()
        if key not in self._tasks:
            with torch.device("meta"):
                self._tasks[key] = self._build(model)
        return self._tasks[key]

    def memory(self, step: StepSettings) -> Memory:
        """Memory of one process."""
        task = self.task(step.model)
        key = (id(task), step.at_once, step.precision, step.device, step.channels_last)
        if key not in self._activations:
            self._activations[key] = max(run_on_meta(task, step).highest, run_once_on_meta(task, step).highest)
        activations = self._activations[key]
        # On a CPU the batch that is read ahead lies in the same memory.
        num_values = torch.Size(task.input_shape).numel()
        ahead = 4 * step.at_once * num_values if step.device == "cpu" else 0
        allowance = FIXED_BYTES[step.device] + ahead + int(FRAGMENTS[step.device] * activations)
        moments = step.optim.num_moments
        state = state_bytes(sizes_of(task), step.zero, step.num_processes, step.bucket_values, moments)
        return Memory(state, activations, allowance)

    def traffic(self, step: StepSettings) -> Traffic:
        """Communication of one process in a step."""
        return traffic(sizes_of(self.task(step.model)), step.zero, step.num_processes, step.num_parts)


def sizes_of(task: Task) -> Sizes:
    """Numbers of values that a task trains, and bytes that it does not."""
    trained = {id(p): p for player in task.players for p in task.weights(player).parameters()}
    fixed = [tensor for tensor in (*task.parameters(), *task.buffers()) if id(tensor) not in trained]
    return Sizes(
        trained=sum(parameter.numel() for parameter in trained.values()),
        model=sum(parameter.numel() for parameter in task.weights("model").parameters()),
        constant_bytes=sum(map(num_bytes, fixed)),
    )


def step_flops(task: Task, step: int) -> int:
    """Floating point operations of one volume in step number `step`, recomputation included; `task` is on meta."""
    task.train()
    with FlopCounterMode(display=False) as counter:
        batch = Batch(torch.empty((1, *task.input_shape), device="meta"), ("",), step, (0,))
        for player in task.playing(step):
            task(batch, player)["loss"].backward()
    task.zero_grad()
    return int(counter.get_total_flops())


def run_on_meta(task: Task, step: StepSettings) -> LiveBytes:
    """One part of the last step of a training, when all players move; `task` was built under `torch.device("meta")`.

    The players move one after another, as in the training loop; tensors that one leaves for the next are counted.
    """
    task.train()
    # Without contents only the GPU's way is known: there, group normalisation copies maps that lie channels last.
    last = step.channels_last and step.device == "cuda"
    layout = torch.channels_last_3d if last else torch.contiguous_format
    for parameter in task.parameters():
        if parameter.ndim == 5:
            parameter.data = parameter.data.contiguous(memory_format=layout)
    low = step.precision is torch.bfloat16
    rules: AbstractContextManager[Any] = MetaAutocast(step.device) if low else nullcontext()
    number = step.optim.steps - 1
    with LiveBytes([*task.parameters(), *task.buffers()], step.channels_last) as live, rules:
        volumes = torch.empty((step.at_once, *task.input_shape), device="meta").contiguous(memory_format=layout)
        batch = Batch(volumes, ("",) * step.at_once, number, (0,) * step.at_once)
        for player in task.playing(number):
            losses = task(batch, player)
            live.backward(losses["loss"])
    task.zero_grad()
    return live


def run_once_on_meta(task: Task, step: StepSettings) -> LiveBytes:
    """What the task computes of one volume before the first step, such as the features of a trunk that stays as it is."""
    rules: AbstractContextManager[Any] = (
        MetaAutocast(step.device) if step.precision is torch.bfloat16 else nullcontext()
    )
    with LiveBytes([*task.parameters(), *task.buffers()], step.channels_last) as live, rules:
        task.compute_once()
    return live


class LiveBytes(TorchFunctionMode):
    """Bytes of the tensors on the meta device that are alive inside this context, gradients of weights left out.

    A storage is counted when a function returns it, or when a node of the backward pass hands it on, until nothing holds
    it any more; views share one storage. While the backward pass of a convolution runs, its copies are added.
    """

    def __init__(self, known: Iterable[Tensor], channels_last: bool = False) -> None:
        """`known` tensors, such as weights, exist already and are not counted."""
        super().__init__()
        self.live = self.highest = self.made = 0
        """Bytes now, at the fullest moment, and of all storages together."""
        self._channels_last, self._in_backward = channels_last, False
        self._known = {id(tensor.untyped_storage()) for tensor in known}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        # The backward pass itself runs without gradients: what is called there is how the meta device works out shapes,
        # often in more steps than a real device. Only recomputed blocks have gradients switched on again.
        if torch.is_grad_enabled() or not self._in_backward:
            self._count(result)
        return result

    def backward(self, loss: Tensor) -> None:
        """`loss.backward()`, followed.

        A call with a tensor would leave this context until it returns, so that recomputed blocks would not be seen; a
        call with an edge of the graph does not.
        """
        for node in nodes_of(loss):
            to_weights = [
                following is not None and not following.next_functions for following, _ in node.next_functions
            ]
            node.register_prehook(self._count)
            node.register_hook(partial(self._after, node.name(), to_weights))
        self._in_backward = True
        torch.autograd.backward(get_gradient_edge(loss), torch.ones_like(loss))
        self._in_backward = False

    def _after(self, name: str, to_weights: list[bool], results: Any, gradients: Any) -> None:
        """Count what a node hands on; a weight's gradient is not an activation."""
        self._count([result for result, weight in zip(results, to_weights, strict=True) if not weight])
        if name == "ConvolutionBackward0":
            maps = [tensor for tensor in (results[0], gradients[0]) if tensor is not None]
            copies = CONVOLUTION_COPIES[gradients[0].dtype] - self._channels_last
            self.highest = max(self.highest, self.live + copies * sum(map(num_bytes, maps)))

    def _count(self, values: Any) -> None:
        if isinstance(values, (tuple, list)):
            for value in values:
                self._count(value)
        elif isinstance(values, Tensor) and values.is_meta:
            storage = values.untyped_storage()
            if id(storage) not in self._known:
                self._known.add(id(storage))
                weakref.finalize(storage, self._end, id(storage), storage.nbytes())
                self.made += storage.nbytes()
                self.live += storage.nbytes()
                self.highest = max(self.highest, self.live)

    def _end(self, identity: int, size: int) -> None:
        self._known.discard(identity)
        self.live -= size


class MetaAutocast(TorchFunctionMode):
    """bfloat16 autocast for the meta device, which has none of its own, by the rules of another type of device.

    Unlike the real one it is not switched off by `without_autocast`; the float32 losses call none of the functions
    that it would lower, and the linear maps at a latent are small.
    """

    def __init__(self, device: str) -> None:
        super().__init__()
        self.raised = IN_FLOAT32[device]

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        wanted = torch.bfloat16 if name in IN_BFLOAT16 else torch.float32 if name in self.raised else None
        if wanted is not None:
            args = tuple(_cast(value, wanted) for value in args)
            kwargs = {key: _cast(value, wanted) for key, value in kwargs.items()}
        return func(*args, **kwargs)


def nodes_of(loss: Tensor) -> list[Node]:
    """The nodes of a loss's backward pass, those that only add to a weight's gradient left out."""
    nodes: dict[Node, None] = {}
    waiting = [loss.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node.next_functions and node not in nodes:
            nodes[node] = None
            waiting += [following for following, _ in node.next_functions]
    return list(nodes)


def num_bytes(tensor: Tensor) -> int:
    """Bytes of a tensor's values."""
    return tensor.numel() * tensor.element_size()


def _cast(value: Any, dtype: torch.dtype) -> Any:
    floating = isinstance(value, Tensor) and value.dtype in (torch.float32, torch.bfloat16)
    return value.to(dtype) if floating else value
