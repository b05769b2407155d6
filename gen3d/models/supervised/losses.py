"""Losses of predicted labels: classes that weigh the same, a focus on scans that are predicted badly, grades, numbers."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as functional
from numpy.typing import NDArray
from torch import Tensor

from gen3d.cohort.target import Target


def num_scores(target: Target) -> int:
    """Numbers that a network gives per scan: a logit per class, a logit per limit between grades, or one number."""
    return {"categories": len(target.classes), "ordered": len(target.classes) - 1, "number": 1}[target.task]


def class_weights(codes: NDArray[np.floating], num_classes: int) -> NDArray[np.float64]:
    """n / (classes x people of the class), so that every class weighs the same; 0 for an empty class, [classes]."""
    counts = np.bincount(np.asarray(codes, dtype=np.int64), minlength=num_classes).astype(np.float64)
    present = counts > 0
    return np.where(present, counts.sum() / (present.sum() * np.maximum(counts, 1.0)), 0.0)


def label_weights(target: Target, labels: Tensor) -> Tensor:
    """Weights of the classes among these labels [classes], on their device; one 1 for a number."""
    if target.task == "number":
        return torch.ones(1, device=labels.device)
    weights = class_weights(labels.cpu().numpy(), len(target.classes))
    return torch.as_tensor(weights, dtype=torch.float32, device=labels.device)


def people_weights(people: Tensor) -> Tensor:
    """The same from the numbers of people of every class [classes]."""
    present = people > 0
    return torch.where(present, people.sum() / (present.sum() * people.clamp(min=1.0)), torch.zeros_like(people))


def effective_weights(people: Tensor, beta: float) -> Tensor:
    """(1 - beta) / (1 - beta^n) of each class of n people [classes], scaled to a mean of 1 over people (Cui et al. 2019)."""
    weights = torch.where(people > 0, (1 - beta) / (1 - beta ** people.clamp(min=1.0)), torch.zeros_like(people))
    return weights * people.sum() / (weights * people).sum()


def label_loss(scores: Tensor, labels: Tensor, target: Target, weights: Tensor, gamma: float) -> Tensor:
    """The loss of a target: focal loss of classes or of grades, smooth L1 (Huber 1964, delta 1) of a number.

    Args:
        scores: [n, num_scores(target)].
        labels: class numbers, or standardised values, [n].
        target: what the labels mean.
        weights: of `label_weights`.
        gamma: see `focal_loss`.
    """
    if target.task == "number":
        return functional.smooth_l1_loss(scores.squeeze(1), labels.to(scores.dtype))
    loss = ordered_focal_loss if target.task == "ordered" else focal_loss
    return loss(scores, labels.long(), weights, gamma)


def focal_loss(logits: Tensor, codes: Tensor, weights: Tensor, gamma: float) -> Tensor:
    """Mean over scans of w_y (1 - p_y)^gamma (-log p_y); class-weighted cross-entropy for gamma 0 (Lin et al. 2017, eq. 5).

    Args:
        logits: [n, classes].
        codes: class numbers [n], integer.
        weights: of the classes [classes].
        gamma: how much less a scan counts that is already predicted well.
    """
    log_p = functional.log_softmax(logits.float(), dim=1).gather(1, codes[:, None]).squeeze(1)
    return (weights[codes] * _focus(log_p, gamma) * -log_p).mean()


def ordered_focal_loss(logits: Tensor, codes: Tensor, weights: Tensor, gamma: float) -> Tensor:
    """The same for the questions `above grade k?`, summed over k, of logits [n, classes - 1] (Cao et al. 2020)."""
    above = codes[:, None] > torch.arange(logits.shape[1], device=logits.device)
    log_p = functional.logsigmoid(torch.where(above, logits, -logits).float())
    return (weights[codes] * (_focus(log_p, gamma) * -log_p).sum(1)).mean()


def person_losses(scores: Tensor, labels: Tensor, target: Target) -> Tensor:
    """The loss of every person [n]: log loss of classes or grades, smooth L1 of a standardised number."""
    if target.task == "number":
        return functional.smooth_l1_loss(scores.squeeze(1), labels.to(scores.dtype), reduction="none")
    codes = labels.long()
    if target.task == "ordered":
        above = codes[:, None] > torch.arange(scores.shape[1], device=scores.device)
        return -functional.logsigmoid(torch.where(above, scores, -scores)).sum(1)
    return functional.cross_entropy(scores, codes, reduction="none")


def _focus(log_p: Tensor, gamma: float) -> Tensor | float:
    # A clamp away from 0 keeps the gradient of a power below 1 finite for scans that are predicted perfectly.
    return 1.0 if gamma == 0 else (-torch.expm1(log_p)).clamp(min=1e-6).pow(gamma)
