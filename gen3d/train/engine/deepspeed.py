"""The engine of many processes: DeepSpeed's data parallelism with ZeRO, on GPUs (NCCL) or CPUs (gloo)."""

from __future__ import annotations

import atexit
import copy
import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from gen3d.core.errors import UserError
from gen3d.models.task import Batch, Losses, Task
from gen3d.train.engine.compiling import compile_blocks
from gen3d.train.engine.config import EngineConfig
from gen3d.train.engine.interface import Engine, State, fitting, messenger
from gen3d.train.engine.processes import Processes, contact
from gen3d.train.optim import MOMENTS, Moments, OptimConfig, RunningAverage, adam_state, load_adam


class DeepSpeedEngine(Engine):
    """One DeepSpeed engine per player, all over the same processes.

    Weights, gradients and optimiser state are float32; bfloat16 is autocast's, as in the local engine. Checkpoints are
    the local engine's: whole tensors by name, so that any number of processes at any ZeRO stage goes on from them.
    """

    def __init__(
        self,
        task: Task,
        config: EngineConfig,
        optim: OptimConfig,
        processes: Processes,
        state: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(task, config, optim, processes)
        self.zero = config.zero
        deepspeed = _import_deepspeed(self.device)
        _ensure_group(config, self.device, processes)
        if config.compile:
            compile_blocks(task, self.device)
        if state is not None:
            for player, weights in fitting(state, task)["weights"].items():
                task.weights(player).load_state_dict(weights)
        self._names: dict[str, dict[str, Any]] = {
            player: dict(task.weights(player).named_parameters()) for player in task.players
        }
        # Under ZeRO 3 the trained module holds shards; pictures and exports are made with a whole one.
        self._whole = copy.deepcopy(task.weights("model")).cpu() if self.zero == 3 and self.primary else None
        self._engines: dict[str, Any] = {}
        for player in task.players:
            module = task.weights(player)
            num = sum(parameter.numel() for parameter in module.parameters())
            with contact(processes):
                engine, *_ = deepspeed.initialize(
                    model=_Player(task, player, self),
                    optimizer=optim.optimiser(module, task.decays_vectors, task.slow_weights()),
                    config=config.deepspeed_settings(optim, processes.num, num),
                    dist_init_required=False,
                )
            self._engines[player] = engine
            moments, updates = (state["moments"][player], state["updates"][player]) if state else ({}, 0)
            self._load_moments(player, moments, updates)
        self.average = RunningAverage(self._shards(), optim.ema_decay)
        if state is not None:
            self._load_average(state["average"])

    def forward(self, batch: Batch, player: str) -> Losses:
        self._engines[player].train()
        with contact(self.processes):
            losses: Losses = self._engines[player](self.prepared(batch))
        return losses

    def backward(self, losses: Losses, player: str, part: int, num_parts: int) -> None:
        engine = self._engines[player]
        engine.set_gradient_accumulation_boundary(part + 1 == num_parts)
        with contact(self.processes):
            engine.backward(messenger(losses))

    def update(self, player: str, step: int) -> bool:
        engine = self._engines[player]
        self.set_rates(self._adam(player), step)
        with contact(self.processes):
            finite = self._finite(player)
            if finite:
                engine.step()
                finite = bool(engine.was_step_applied())
            else:
                engine.zero_grad()
        if finite and player == "model":
            self.average.update(self._shards(), step)
        return finite

    def _finite(self, player: str) -> bool:
        """Whether the reduced gradient is finite. From stage 1 on DeepSpeed looks itself and skips; without ZeRO every
        process holds the whole gradient, and it would step into the NaN."""
        if self.zero > 0:
            return True
        gradients = [p.grad for p in self._names[player].values() if p.grad is not None]
        return bool(torch.isfinite(nn.utils.get_total_norm(gradients)))

    def state(self) -> State | None:
        weights = {player: self._whole_weights(player) for player in self._engines}
        moments = {player: self._moments(player) for player in self._engines}
        average = self._whole_average()
        if not self.primary:
            return None
        return {
            "weights": weights,
            "moments": {player: held for player, (held, _) in moments.items()},
            "updates": {player: updates for player, (_, updates) in moments.items()},
            "average": average,
        }

    def export(self) -> dict[str, Tensor] | None:
        average = self._whole_average()
        if not self.primary:
            return None
        whole = self._whole if self._whole is not None else self.task.weights("model")
        return {**whole.state_dict(), **average}

    @contextmanager
    def averaged(self) -> Iterator[nn.Module | None]:
        if self.zero == 3:
            tensors = self.export()
            if self._whole is not None and tensors is not None:
                self._whole.load_state_dict(tensors)
                self._whole.to(self.device)
            yield self._whole
            return
        module = self.task.weights("model")
        self.average.swap(module)
        try:
            yield module if self.primary else None
        finally:
            self.average.swap(module)

    def close(self) -> None:
        for engine in self._engines.values():
            engine.destroy()
        self._engines.clear()

    def _adam(self, player: str) -> torch.optim.Optimizer:
        """The AdamW that moves the player's weights, inside whatever ZeRO put around it."""
        optimiser = self._engines[player].optimizer
        inner: torch.optim.Optimizer = optimiser.optimizer if self.zero > 0 else optimiser
        return inner

    def _shards(self) -> dict[str, Tensor]:
        """What this process holds of the model's weights: all of them, or its part of each under ZeRO 3."""
        if self.zero < 3:
            return dict(self._names["model"])
        return {name: parameter.ds_tensor for name, parameter in self._names["model"].items()}

    def _whole_weights(self, player: str) -> dict[str, Tensor]:
        """The player's state dict with whole tensors, on the CPU."""
        module = self.task.weights(player)
        if self.zero < 3:
            return {name: value.detach().cpu() for name, value in module.state_dict().items()}
        whole = {name: value.detach().cpu() for name, value in module.named_buffers()}
        return whole | {
            name: self._gathered(parameter, parameter.ds_tensor) for name, parameter in self._names[player].items()
        }

    def _whole_average(self) -> dict[str, Tensor]:
        if self.zero < 3:
            return {name: value.detach().cpu().clone() for name, value in self.average.weights.items()}
        return {name: self._gathered(self._names["model"][name], shard) for name, shard in self.average.weights.items()}

    def _gathered(self, parameter: Any, shard: Tensor) -> Tensor:
        """The whole of a tensor of which every process holds an equal, padded shard (ZeRO 3)."""
        whole = torch.empty(shard.numel() * self.processes.num, dtype=shard.dtype, device=shard.device)
        with contact(self.processes):
            dist.all_gather(list(whole.chunk(self.processes.num)), shard.detach().flatten().contiguous())
        return whole[: parameter.ds_numel].view(parameter.ds_shape).cpu()

    def _load_average(self, average: Mapping[str, Tensor]) -> None:
        for name, held in self.average.weights.items():
            whole = average[name].to(held.device)
            held.copy_(self._shard(whole, held) if self.zero == 3 else whole)

    def _shard(self, whole: Tensor, like: Tensor) -> Tensor:
        """This process's padded shard of a whole tensor (ZeRO 3), of the size of `like`; undoes `_gathered`."""
        padded = torch.zeros(like.numel() * self.processes.num, dtype=like.dtype, device=like.device)
        padded[: whole.numel()] = whole.flatten()
        return padded.view(self.processes.num, -1)[self.processes.rank].view_as(like)

    def _moments(self, player: str) -> tuple[Moments, int]:
        """Adam's moments as whole tensors on the CPU, and the number of updates."""
        if self.zero == 0:
            return adam_state(self._adam(player), self.task.weights(player))
        updates = self._updates(player)
        if updates == 0:
            return {}, 0
        with contact(self.processes):
            return {
                name: {key: self._moment(parameter, key) for key in MOMENTS}
                for name, parameter in self._names[player].items()
                if parameter.requires_grad
            }, updates

    def _moment(self, parameter: Any, key: str) -> Tensor:
        from deepspeed.utils import safe_get_full_optimizer_state, safe_get_local_optimizer_state

        if self.zero == 3:
            return self._gathered(parameter, safe_get_local_optimizer_state(parameter, key))
        whole: Tensor = safe_get_full_optimizer_state(parameter, key)
        return whole.detach().cpu().clone()

    def _load_moments(self, player: str, moments: Moments, updates: int) -> None:
        """Give Adam its moments and its count of updates; without moments, empty ones.

        ZeRO 1 and 2 link the moments to the weights when the first parameter group has moved, and lose those of the
        others (DeepSpeed 0.19); so they are made and linked here, before the first update.
        """
        if self.zero == 0:
            load_adam(self._adam(player), self.task.weights(player), moments, updates)
            return
        zero_optimiser, inner = self._engines[player].optimizer, self._adam(player)
        sharded = (
            zero_optimiser.single_partition_of_fp32_groups
            if self.zero < 3
            else zero_optimiser.fp32_partitioned_groups_flat
        )
        for partition in sharded:
            inner.state[partition] = {
                "step": torch.tensor(float(updates), device=partition.device),
                **{key: torch.zeros_like(partition) for key in MOMENTS},
            }
        if self.zero < 3:
            zero_optimiser._lazy_init_hp_params_optimizer_state()
        if not moments:
            return
        from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

        for name, parameter in self._names[player].items():
            for key in MOMENTS if parameter.requires_grad else ():
                whole = moments[name][key].to(self.device)
                if self.zero == 3:
                    safe_set_local_optimizer_state(parameter, self._shard(whole, parameter.ds_tensor), key)
                else:
                    safe_set_full_optimizer_state(parameter, whole, key)

    def _updates(self, player: str) -> int:
        """Updates that Adam has made."""
        return int(next(iter(self._adam(player).state.values()))["step"].item())


class _Player(nn.Module):
    """A player's losses as a module that holds that player's weights and no others: each engine reduces its own."""

    def __init__(self, task: Task, player: str, engine: Engine) -> None:
        super().__init__()
        self.weights = task.weights(player)
        self._held = (task, player, engine)  # a tuple, so that the task's other weights are not registered here

    def forward(self, batch: Batch) -> Losses:
        task, player, engine = self._held
        with engine.autocast():
            losses: Losses = task(batch, player)
        return losses


def _import_deepspeed(device: torch.device) -> ModuleType:
    """DeepSpeed, quiet and without compiled operators.

    Raises:
        UserError: it is not installed.
    """
    if device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    try:
        import deepspeed
        import deepspeed.ops
    except ImportError as error:
        raise UserError(
            f"training in several processes needs DeepSpeed ({error}); install it with "
            "`DS_BUILD_OPS=0 pip install 'gen3d[deepspeed]'`."
        ) from None
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    # DeepSpeed calls functions of torch that will be renamed; nothing that a user could mend.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed\..*")
    # A shared-memory reduction that is compiled on first use: minutes, a compiler, and a cache that environments fight
    # over, for a few per cent on CPUs.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def _ensure_group(config: EngineConfig, device: torch.device, processes: Processes) -> None:
    """DeepSpeed wants a process group and a launcher's variables even for one process."""
    if not dist.is_initialized():
        assert processes.num == 1, "several processes meet in gen3d.train.engine.preflight"
        os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
        dist.init_process_group(config.chosen_backend(device), store=dist.HashStore(), rank=0, world_size=1)
        atexit.register(dist.destroy_process_group)
