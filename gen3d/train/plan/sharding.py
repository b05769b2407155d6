"""What data parallelism with DeepSpeed's ZeRO keeps on every process and sends in every step, in closed form.

P values are trained by N processes; weights, gradients and AdamW's two moments are float32, 4 bytes each. Read from
DeepSpeed 0.19 (runtime/engine.py, runtime/zero/stage_1_and_2.py and stage3.py), which differs from the idea of ZeRO
(Rajbhandari et al. 2020) in places; the names in brackets are where to look:

stage 0  every process holds everything; gradients are flattened and all-reduced after the backward pass
         [allreduce_gradients].
stage 1  moments in N parts. The weights stay whole, and each process clones its own part of them, which AdamW moves
         [single_partition_of_fp32_groups]; gradients stay whole until the update. Reduced through a buffer of fixed size
         [setup_buckets] by an all-reduce, of which each process keeps its part [allreduce_and_scatter]; the moved parts
         are gathered.
stage 2  gradients in N parts too [grads_in_partition]: reduced in every part of a step, not once.
stage 3  weights in N parts too, which AdamW moves on a copy again [fp32_partitioned_groups_flat]. Weights of up to 1e9
         values stay gathered for the step [max_live_parameters], so for models of our size only the moments, gradients
         and the running average get smaller.

The running average is a whole copy of the model's weights in stages 0 to 2 and a part of it in stage 3.
A process of a ring sends (N - 1)/N of the bytes that are gathered or reduce-scattered, and twice that for an all-reduce
(Patarasuk and Yuan 2009); it receives as much.
"""

from __future__ import annotations

from dataclasses import dataclass

STAGES = (0, 1, 2, 3)
BYTES = 4
"""Of a float32 value."""

LIVE_VALUES = 10**9
"""Gathered weights that stage 3 keeps at once (DeepSpeed's stage3_max_live_parameters)."""


@dataclass(frozen=True)
class Sizes:
    """Numbers of values: trained by all players, trained by the model alone, and bytes that are not trained (buffers)."""

    trained: int
    model: int
    constant_bytes: int


@dataclass(frozen=True)
class StateBytes:
    """Bytes that a process holds whatever the number of volumes.

    `exchanged` is taken when the backward pass is over and the activations are gone; the others stay.
    """

    weights: int
    gradients: int
    optimiser: int
    average: int
    buckets: int
    exchanged: int

    @property
    def lasting(self) -> int:
        """What is there during the backward pass."""
        return self.weights + self.gradients + self.optimiser + self.average + self.buckets


@dataclass(frozen=True)
class Traffic:
    """Bytes that a process sends in one step of the ring algorithms."""

    reduced: int
    gathered: int

    @property
    def total(self) -> int:
        """Both."""
        return self.reduced + self.gathered


def state_bytes(sizes: Sizes, zero: int, num_processes: int, bucket_values: int, num_moments: int = 2) -> StateBytes:
    """Memory of one process; one process alone holds what stage 0 does, without an exchange.

    The optimiser keeps `num_moments` values of every weight: AdamW two, SGD one. `bucket_values` is DeepSpeed's
    reduce_bucket_size. Gradients are copied to a buffer of that size and flattened once more to be sent: after the backward
    pass up to stage 1 and during it from stage 2 on.
    """
    whole, average = BYTES * sizes.trained, BYTES * sizes.model
    share, bucket = -(-whole // num_processes), BYTES * min(sizes.trained, bucket_values)
    weights = whole + sizes.constant_bytes
    if num_processes == 1:
        return StateBytes(weights, whole, num_moments * whole, average, buckets=0, exchanged=0)
    if zero == 0:
        return StateBytes(weights, whole, num_moments * whole, average, buckets=0, exchanged=whole)
    if zero == 1:
        return StateBytes(weights + share, whole, num_moments * share, average, buckets=bucket, exchanged=bucket)
    if zero == 2:
        return StateBytes(weights + share, share, num_moments * share, average, buckets=2 * bucket, exchanged=0)
    gathered = BYTES * min(sizes.trained, LIVE_VALUES) + sizes.constant_bytes
    part = -(-average // num_processes)
    return StateBytes(gathered + 2 * share, share, num_moments * share, part, buckets=2 * bucket, exchanged=0)


def traffic(sizes: Sizes, zero: int, num_processes: int, num_parts: int) -> Traffic:
    """Communication of one process per step, computed in `num_parts` parts."""
    once = BYTES * sizes.trained * (num_processes - 1) // num_processes
    if zero == 0:
        return Traffic(2 * once, 0)
    if zero == 1:
        return Traffic(2 * once, once)
    if zero == 2:
        return Traffic(2 * once * num_parts, once)
    # At most: they stay gathered from the forward to the backward pass, and small ones to the next part.
    return Traffic(once * num_parts, once * num_parts)
