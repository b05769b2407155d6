"""Which genetic tokens a fusion network reads with which image tokens, shown only where that may be believed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from gen3d.cohort.fusion_folder import ATTENTION, PICTURE, AttentionVerdict, write_verdict
from gen3d.cohort.scores_folder import MAIN, PERMUTED
from gen3d.cohort.target import Target
from gen3d.core.result_folder import write_picture
from gen3d.figures import style
from gen3d.maths.attention_checks import MOST_P, AttentionChecks, check_maps, worth_of
from gen3d.models.supervised.fusion import ONE_TOKEN, Fusion, FusionConfig, token_names
from gen3d.models.supervised.losses import person_losses

Map = NDArray[np.float64]
FEWEST_PEOPLE = 5
"""Tested people with both modalities from whom a member's map is made."""
SHUFFLES = 2
"""Times that a token changes places among people; their mean counts."""


@dataclass(frozen=True)
class AskedMember:
    """A trained member and the people that it never saw.

    Attributes:
        variant: main or permuted.
        model: its network.
        values: columns of the people [n, G + R].
        labels: class numbers, or values in their unit, [n].
        subjects: whose rows these are, n.
    """

    variant: str
    model: Fusion
    values: NDArray[np.float32]
    labels: NDArray[np.float64]
    subjects: tuple[str, ...]


def write_attention(folder: Path, config: FusionConfig, members: Iterable[AskedMember]) -> AttentionVerdict:
    """Write attention.json, and attention.tsv with its picture where the map may be believed.

    Maps are made from people whom a member never saw. They must be alike over members, which start from different weights and
    learn from different people; agree with what happens to the answer when tokens are taken away; be stronger than those
    of members with permuted labels; and be of tokens that each tell something of these people beyond all others. Without the last,
    a region that matters would be shown beside whichever gene, for permuted labels lose the region too.

    Args:
        folder: of the run.
        config: of the network, complete.
        members: all of them.
    """
    if config.network == "published":
        verdict = _none(f"no map of attention: {ONE_TOKEN}")
    else:
        found: dict[str, list[tuple[Map, Map]]] = {MAIN: [], PERMUTED: []}
        added: list[pd.DataFrame] = []
        for member in members:
            maps = map_of(member.model, member.values, ablate=member.variant == MAIN)
            found[member.variant] += [] if maps is None else [maps]
            if maps is not None and member.variant == MAIN:
                added.append(added_losses(member, len(added)))
        if len(found[MAIN]) < 2:
            verdict = _none(
                "no map of attention: it takes two members that tested people with both modalities (cross_fit=5)"
            )
        else:
            main, ablation = (np.stack(parts) for parts in zip(*found[MAIN], strict=True))
            permuted = [one for one, _ in found[PERMUTED]]
            genes, regions = token_names(config.genetic_tokens), token_names(config.image_tokens)
            people = pd.concat(added).groupby("subject").mean().to_numpy()
            worth = (worth_of(people[:, : len(genes)]), worth_of(people[:, len(genes) :]))
            checks = check_maps(
                main, ablation, np.stack(permuted) if permuted else np.zeros((0, *main.shape[1:])), *worth
            )
            verdict = _verdict(checks, genes, regions)
            if verdict.shown:
                _write_map(folder, checks, genes, regions)
    write_verdict(folder, verdict)
    return verdict


def _none(sentence: str) -> AttentionVerdict:
    nan = float("nan")
    return AttentionVerdict(False, nan, nan, nan, 0, f"{sentence}.")


def _verdict(checks: AttentionChecks, genes: Sequence[str], regions: Sequence[str]) -> AttentionVerdict:
    if checks.believed:
        row, column = checks.strongest
        gene, region = checks.genes.p[row], checks.regions.p[column]
        sentence = (
            f"attention: {genes[row]} with {regions[column]} is strongest (p = {checks.p:.2g}, permuted labels; each tells "
            f"something beyond all others, p = {gene:.2g} and {region:.2g}, Holm); maps of members correlate "
            f"{checks.stability:.2f} (reliability of their mean {checks.reliability:.2f}), and with ablation "
            f"{checks.agreement:.2f}. It says what the network reads, not what causes what."
        )
    else:
        sentence = f"no map of attention: {'; '.join(checks.reasons)}."
    figures = (checks.stability, checks.agreement, checks.p)
    return AttentionVerdict(checks.believed, *figures, checks.num_permuted, sentence)


def answer_of(scores: Tensor, target: Target) -> Tensor:
    """One number per person [B]: logit of the last class less that of the first, mean logit of being above a grade, the number."""
    if target.task == "categories":
        return scores[:, -1] - scores[:, 0]
    return scores.mean(dim=1)


def map_of(model: Fusion, values: NDArray[np.float32], ablate: bool = True) -> tuple[Map, Map] | None:
    """Relevance of every pair of a genetic and an image token [G, R], and what ablation says of it; None of too few people.

    How much the answer reads a token at the end is attention weight x gradient of the answer (Chefer, Gur and Wolf 2021), summed
    over heads; its SD over people leaves out what a token says of everybody alike. Of a pair it is the geometric mean, times how
    much the two tokens read each other: the mean weight of the cross-attention over both directions, layers, heads and people.
    Ablation is the SD over people of the change of the answer when the genetic token is taken from everybody, times that of the
    image token: of a pair both must matter.

    Args:
        model: with tokens.
        values: columns of people [n, G + R]; those who lack a modality are left out.
        ablate: whether ablation is asked for; zeros otherwise.
    """
    known = np.isfinite(values)
    split = model.num_genetic
    both = known[:, :split].any(axis=1) & known[:, split:].any(axis=1)
    if both.sum() < FEWEST_PEOPLE:
        return None
    inputs = torch.from_numpy(values[both]).to(model.column_mean.device)
    model.eval()
    with torch.enable_grad():
        scores = model.detailed(inputs)
        answer = answer_of(scores.both.float(), model.target)
        gradients = torch.autograd.grad(answer.sum(), scores.pooling)
    read = [
        (weights * gradient).sum(dim=1)[:, 0, 1:].detach().double().std(dim=0).cpu().numpy()
        for weights, gradient in zip(scores.pooling, gradients, strict=True)
    ]
    found = np.zeros((len(read[0]), len(read[1])))
    for forth, back in scores.attention:
        to_image, to_genetic = (part.detach().double().mean(dim=(0, 1))[1:, 1:].cpu().numpy() for part in (forth, back))
        found += (to_image + to_genetic.T) / (2 * len(scores.attention))
    found *= np.sqrt(np.outer(*read))
    return found, _ablation(model, inputs) if ablate else np.zeros_like(found)


@torch.no_grad()
def _ablation(model: Fusion, inputs: Tensor) -> Map:
    whole = answer_of(model.detailed(inputs).both.double(), model.target)
    changes: list[list[float]] = []
    start = 0
    for tokens in (model.config.genetic_tokens, model.config.image_tokens):
        side = []
        for token in tokens:
            without = inputs.clone()
            without[:, start : start + token.columns] = torch.nan
            changed = answer_of(model.detailed(without).both.double(), model.target)
            side.append(float((changed - whole).std()))
            start += token.columns
        changes.append(side)
    return np.outer(changes[0], changes[1])


@torch.no_grad()
def added_losses(member: AskedMember, seed: int) -> pd.DataFrame:
    """What shuffling each token among people adds to the loss of a person: a row per person with both modalities, with `subject`,
    a column per token, genetic ones first (permutation importance: Breiman 2001, Machine Learning 45, section 10)."""
    model, values = member.model, member.values
    known = np.isfinite(values)
    both = known[:, : model.num_genetic].any(axis=1) & known[:, model.num_genetic :].any(axis=1)
    inputs = torch.from_numpy(values[both]).to(model.column_mean.device)
    labels = torch.from_numpy(member.labels[both]).to(inputs.device)
    if model.target.task == "number":
        labels = (labels - model.centre) / model.spread
    model.eval()

    def losses(of: Tensor) -> NDArray[np.float64]:
        return person_losses(model.detailed(of).both.double(), labels, model.target).cpu().numpy()

    whole, generator = losses(inputs), np.random.default_rng(seed)
    columns, start = [], 0
    for token in (*model.config.genetic_tokens, *model.config.image_tokens):
        place = slice(start, start + token.columns)
        added = np.zeros(len(whole))
        for _ in range(SHUFFLES):
            shuffled = inputs.clone()
            shuffled[:, place] = inputs[torch.from_numpy(generator.permutation(len(inputs))), place]
            added += (losses(shuffled) - whole) / SHUFFLES
        columns.append(added)
        start += token.columns
    return pd.DataFrame(np.stack(columns, axis=1)).assign(subject=np.array(member.subjects)[both])


def _write_map(folder: Path, checks: AttentionChecks, genes: Sequence[str], regions: Sequence[str]) -> None:
    rows = [
        (gene, region, checks.mean[i, j], checks.cells[i, j], checks.genes.p[i], checks.regions.p[j])
        for i, gene in enumerate(genes)
        for j, region in enumerate(regions)
    ]
    ATTENTION.write(folder, pd.DataFrame(rows, columns=list(ATTENTION.columns)))
    write_picture(folder, PICTURE, draw_attention(checks, genes, regions))


def draw_attention(checks: AttentionChecks, genes: Sequence[str], regions: Sequence[str]) -> bytes:
    """A PNG of the map, genetic tokens down and regions across, the strongest 20 of each; ringed are cells with p <= 0.05 whose
    tokens both tell something."""
    most, mean = 20, checks.mean
    down = np.sort(np.argsort(-mean.max(axis=1), kind="stable")[:most])
    across = np.sort(np.argsort(-mean.max(axis=0), kind="stable")[:most])
    shown = mean[np.ix_(down, across)]
    ringed = ((checks.cells <= MOST_P) & checks.counted)[np.ix_(down, across)]
    with style.canvas(2.0 + 0.22 * len(down)) as figure:
        figure.set_layout_engine("constrained")  # before the colour bar, which is placed in another way without it
        axes = figure.subplots()
        image = axes.imshow(shown, cmap=style.SEQUENTIAL, aspect="auto", vmin=0.0)
        axes.set_xticks(range(len(across)), [regions[place] for place in across], rotation=60, ha="right")
        axes.set_yticks(range(len(down)), [genes[place] for place in down])
        found = np.argwhere(ringed)
        axes.scatter(found[:, 1], found[:, 0], s=60, facecolors="none", edgecolors=style.GROUP_COLOURS[1])
        axes.set_title("Relevance of attention (ringed: p at most 0.05, both tokens tell something)")
        figure.colorbar(image, ax=axes, label="logit")
        return style.png_bytes(figure)
