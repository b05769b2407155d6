"""Batches are a pure function of the step, and what is read is what was stored."""

from __future__ import annotations

import numpy as np
import torch

from gen3d.cohort.folder import Prepared
from gen3d.train.augment import AugmentConfig
from gen3d.train.batches import Batches, PreparedSource

CHANNELS = ("t1w", "log_jacobian")


def batches_of(prepared: Prepared, parts: int = 1, rows: tuple[int, ...] = (0, 2, 3, 7)) -> Batches:
    frame = prepared.manifest
    source = PreparedSource(prepared, tuple(frame["key"]), tuple(frame["subject"]), CHANNELS)
    return Batches(source, np.array(rows), 4, parts, (0, 0), AugmentConfig(), torch.device("cpu"))


def test_any_order_of_asking_gives_the_same_batches(prepared: Prepared) -> None:
    batches = batches_of(prepared)
    forward = [batches.at(step, 0) for step in range(4)]
    backward = [batches.at(step, 0) for step in (3, 2, 1, 0)][::-1]
    batches.close()
    for first, second in zip(forward, backward, strict=True):
        assert torch.equal(first.volumes, second.volumes)
        assert (first.subjects, first.seeds) == (second.subjects, second.seeds)


def test_volumes_are_those_of_the_named_subjects_and_of_the_member(prepared: Prepared) -> None:
    batches = batches_of(prepared)
    batch = batches.at(0, 0)
    batches.close()
    assert sorted(batch.subjects) == ["p00", "p02", "p03", "p07"]
    for volume, subject in zip(batch.volumes, batch.subjects, strict=True):
        key = prepared.manifest.set_index("subject").loc[subject, "key"]
        assert np.array_equal(volume.numpy(), prepared.load([str(key)], CHANNELS)[0])


def test_parts_make_up_the_whole_batch(prepared: Prepared) -> None:
    whole, halves = batches_of(prepared), batches_of(prepared, parts=2)
    for step in range(2):
        complete = whole.at(step, 0)
        parts = [halves.at(step, part) for part in range(2)]
        assert torch.equal(complete.volumes, torch.cat([part.volumes for part in parts]))
        assert complete.seeds == parts[0].seeds + parts[1].seeds
        assert len(set(complete.seeds)) == 4
    whole.close()
    halves.close()
