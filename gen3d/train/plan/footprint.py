"""The memory a training step needs besides weights and optimiser, found by running it on tensors without contents.

The step runs on torch's meta device: every operation of forward and backward pass happens, with shapes and types but
without numbers, and every tensor is followed from its birth to its death. What is counted is therefore what a real step
holds: tensors saved for the backward pass in their own precision, gradients of activations, and with gradient
checkpointing the borders between blocks and one recomputed block. A second or two is enough for a step of 1 mm volumes.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gen3d.models.task import Batch, Task

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


CONVOLUTION = torch.ops.aten.convolution.default
CONVOLUTION_BACKWARD = torch.ops.aten.convolution_backward.default


class LiveBytes(TorchDispatchMode):
    """Follows the storage of every tensor that operations inside this context make on one type of device.

    While a convolution runs, its working memory is added: see `workspace_bytes`.
    """

    def __init__(self, device: str, known: Iterable[Tensor], channels_last: bool = False) -> None:
        """`known` tensors, such as weights, exist already and are not counted."""
        super().__init__()
        self.device, self.channels_last = device, channels_last
        self._followed = {tensor.untyped_storage()._cdata: -1 for tensor in known}
        self._sizes: list[int] = []
        self._events: list[tuple[int, int]] = []
        self.made = 0
        """Bytes of all storage that was made, working memory left out."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.device.type == self.device:
                self._follow(leaf)
        if func in (CONVOLUTION, CONVOLUTION_BACKWARD):
            self._sizes.append(
                workspace_bytes(func is CONVOLUTION_BACKWARD, args[0], args[1], result, self.channels_last)
            )
            self._events += [(len(self._sizes) - 1, 1), (len(self._sizes) - 1, -1)]
        return result

    def _follow(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        address = storage._cdata
        if address in self._followed:
            return
        number = len(self._sizes)
        self._followed[address] = number
        self._sizes.append(storage.nbytes())
        self.made += storage.nbytes()
        self._events.append((number, 1))
        weakref.finalize(storage, self._end, address, number)

    def _end(self, address: int, number: int) -> None:
        self._followed.pop(address, None)
        self._events.append((number, -1))

    def peak(self, without: Iterable[Tensor] = ()) -> int:
        """Most bytes alive at once, leaving out these tensors."""
        left_out = {self._followed.get(tensor.untyped_storage()._cdata, -1) for tensor in without}
        live = highest = 0
        for number, sign in self._events:
            if number not in left_out:
                live += sign * self._sizes[number]
                highest = max(highest, live)
        return highest


def workspace_bytes(backward: bool, first: Tensor, second: Tensor, result: Any, channels_last: bool) -> int:
    """Allowance for what a convolution library takes while it runs: copies of its maps in a layout of its own.

    Measured with oneDNN (torch 2.13, 24 x 32 x 24 voxels and 1 to 64 channels, kernels of 1 to 4 voxels) on a CPU:
    forward about one copy of the larger map; backward one copy of the input and of the output gradient in float32, two
    in bfloat16; one less where channels lie last already. Volumes too small for it are unfolded instead, tens of MiB
    that are not counted. The same is assumed of cuDNN, whose choice of algorithm depends on the GPU.

    Args:
        backward: whether this is the backward pass.
        first: input [B, C, X, Y, Z]; backward: the output's gradient.
        second: weights; backward: input.
        result: what the operation returned.
        channels_last: whether maps lie channels last.
    """
    if not backward:
        return 0 if channels_last else max(_num_bytes(first), _num_bytes(result))
    copies = (2 if first.dtype is torch.bfloat16 else 1) - channels_last
    return copies * (_num_bytes(first) + _num_bytes(second))


def _num_bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


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


def _cast(value: Any, dtype: torch.dtype) -> Any:
    floating = isinstance(value, Tensor) and value.dtype in (torch.float32, torch.bfloat16)
    return value.to(dtype) if floating else value


def backward(loss: Tensor) -> None:
    """`loss.backward()` with the autocast rules on: that call would lift them while blocks are recomputed."""
    torch.autograd.Variable._execution_engine.run_backward(
        (loss,), (torch.ones_like(loss),), False, False, (), allow_unreachable=True, accumulate_grad=True
    )


def activation_bytes(
    task: Task, num_volumes: int, step: int, precision: torch.dtype, device: str, channels_last: bool
) -> int:
    """Most bytes that one part of a step holds besides weights, their gradients and the optimiser.

    The players move one after another, as in the training loop; tensors that one leaves for the next are counted.

    Args:
        task: built under `torch.device("meta")`.
        num_volumes: volumes computed at once.
        step: number of the step, which decides who plays.
        precision: bfloat16 or float32, of the network.
        device: type of device whose autocast rules hold, cpu or cuda.
        channels_last: whether volumes and weights lie channels last.
    """
    task.train()
    # Without contents only the GPU's way is known: there, group normalisation copies maps that lie channels last.
    layout = torch.channels_last_3d if channels_last and device == "cuda" else torch.contiguous_format
    parameters = [parameter for player in task.players for parameter in task.weights(player).parameters()]
    for parameter in parameters:
        if parameter.ndim == 5:
            parameter.data = parameter.data.contiguous(memory_format=layout)
    shape = task.input_shape
    rules: AbstractContextManager[Any] = MetaAutocast(device) if precision is torch.bfloat16 else nullcontext()
    with LiveBytes("meta", [*task.parameters(), *task.buffers()], channels_last) as live, rules:
        volumes = torch.empty((num_volumes, *shape), device="meta").contiguous(memory_format=layout)
        batch = Batch(volumes, ("",) * num_volumes, step, (0,) * num_volumes)
        for player in task.playing(step):
            losses = task(batch, player)
            backward(losses["loss"])
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    peak = live.peak(without=gradients)
    for parameter in parameters:
        parameter.grad = None
    return peak
