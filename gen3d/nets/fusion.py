"""Networks that read genetics and images of a person together, with cross-attention between the two."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as functional
from torch import Tensor, nn

PUBLISHED_GENETIC, PUBLISHED_IMAGE = (130, 256, 128, 64), (512, 256, 64)
"""Widths of the two encoders of the published network, inputs first."""

PUBLISHED_HEADS = 4
NEVER = -1e9
"""What is added to the attention logit of a key that is masked, before the softmax: its weight is exactly 0 in float32."""


@dataclass(frozen=True)
class Modality:
    """One side of some people.

    `values` [B, C] are standardised, 0 where not known; `known` [B, C] says which are; `there` [B] says whose side is looked at
    at all: people for whom it is false count as people without that modality, whatever their values.
    """

    values: Tensor
    known: Tensor
    there: Tensor


@dataclass(frozen=True)
class FusionScores:
    """Raw scores [B, num_scores] of both sides together and of each side alone, and the attention weights of all layers.

    `pooling` are the weights with which the tokens of genetics and of images are read at the end, [B, heads, 1, tokens] each; none
    where a side is one vector. An entry of `attention` is (genetics to images [B, heads, G, R], images to genetics
    [B, heads, R, G]); with tokens the first of each side stands for people who lack it.
    """

    both: Tensor
    genetic: Tensor
    image: Tensor
    attention: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    pooling: tuple[Tensor, ...] = ()


class CrossAttention(nn.Module):
    """Multi-head attention (Vaswani et al. 2017) of queries [B, Q, d] to keys [B, K, d], with a mask of keys [B, K]."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, queries: Tensor, keys: Tensor, usable: Tensor) -> tuple[Tensor, Tensor]:
        """What was read [B, Q, d], and the weights [B, heads, Q, K]: 0 for keys that are not `usable`."""
        asked, offered, held = (
            self._split(layer(x)) for layer, x in ((self.query, queries), (self.key, keys), (self.value, keys))
        )
        logits = (asked @ offered.transpose(-1, -2)).float() / math.sqrt(asked.shape[-1])
        weights = torch.softmax(logits + (~usable)[:, None, None].float() * NEVER, dim=-1)
        read = (weights.to(held.dtype) @ held).transpose(1, 2).flatten(2)
        return self.out(read), weights

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class PublishedFusion(nn.Module):
    """The published network: one vector of 64 numbers per modality, cross-attention in both directions, a perceptron.

    The genetic encoder is 130 -> 256 -> 128 -> 64 with batch normalisation and dropout after its two hidden layers (75,456
    weights), the encoder of 512 image features 512 -> 256 -> 64 (147,776). Where there are other numbers of inputs, a linear
    layer in front adapts them; what is added besides are a learned vector for a modality that a person lacks, and a linear
    head on each encoder. A modality is a single token here, so that each attention has one key: its softmax is identically 1
    for every person, and the network is the same function as one with a linear layer in the attention's place.
    """

    tokens_have_names = False

    def __init__(self, num_genetic: int, num_image: int, num_scores: int, dropout: float) -> None:
        super().__init__()
        width = PUBLISHED_GENETIC[-1]
        self.adapt_genetic = _adapted(num_genetic, PUBLISHED_GENETIC[0])
        self.adapt_image = _adapted(num_image, PUBLISHED_IMAGE[0])
        self.genetic = _perceptron(PUBLISHED_GENETIC, dropout, normalised=True)
        self.image = _perceptron(PUBLISHED_IMAGE, dropout, normalised=False)
        self.missing = nn.Parameter(0.02 * torch.randn(2, width))
        self.to_image, self.to_genetic = (CrossAttention(width, PUBLISHED_HEADS) for _ in range(2))
        self.fusion = _perceptron((2 * width, width), dropout, normalised=False)
        self.head, self.genetic_head, self.image_head = (nn.Linear(width, num_scores) for _ in range(3))

    @property
    def encoders(self) -> list[nn.Module]:
        """What is trained on each modality alone where the encoders are trained separately."""
        return [self.adapt_genetic, self.adapt_image, self.genetic, self.image, self.genetic_head, self.image_head]

    def forward(self, genetic: Modality, image: Modality, frozen: bool = False) -> FusionScores:
        """Scores; with `frozen` the encoders get no gradient."""
        tokens = [self.genetic(self.adapt_genetic(genetic.values)), self.image(self.adapt_image(image.values))]
        there = (genetic.there, image.there)
        g, i = (torch.where(t[:, None], x, m.to(x)) for x, t, m in zip(tokens, there, self.missing, strict=True))
        alone = self.genetic_head(g), self.image_head(i)
        if frozen:
            g, i = (
                torch.where(t[:, None], x.detach(), m.to(x))
                for x, t, m in zip(tokens, there, self.missing, strict=True)
            )
        g, i = g[:, None], i[:, None]
        usable = genetic.there.new_ones((len(g), 1))
        from_image, genetic_weights = self.to_image(g, i, usable)
        from_genetic, image_weights = self.to_genetic(i, g, usable)
        joined = torch.cat([g + from_image, i + from_genetic], dim=-1)[:, 0]
        scores = self.head(functional.relu(self.fusion(joined)))
        return FusionScores(scores, *alone, [(genetic_weights, image_weights)])


class TokenFusion(nn.Module):
    """Tokens of variants, gene sets, scores and APOE on one side, of regions or latents on the other, with cross-attention.

    A token is bias + sum over its columns of value x weights / sqrt(columns). Both sides pass `layers` of cross-attention to
    each other, normalised before (Xiong et al. 2020), with a perceptron each; a learned [CLS] query pools each side at the end,
    and a linear layer reads both. Before the layers the same queries pool the tokens for the heads of one modality alone. A side
    that a person lacks is one learned token, and its others are masked; so is a token of which nothing is known.
    """

    tokens_have_names = True

    def __init__(
        self,
        genetic_tokens: Sequence[int],
        image_tokens: Sequence[int],
        num_scores: int,
        width: int,
        heads: int,
        layers: int,
        dropout: float,
    ) -> None:
        """`genetic_tokens` and `image_tokens` are the columns of each token, in the order of the columns."""
        super().__init__()
        self.embed_genetic, self.embed_image = (_Embedding(tokens, width) for tokens in (genetic_tokens, image_tokens))
        self.pool_genetic, self.pool_image = (_Pooling(width, heads) for _ in range(2))
        self.to_image, self.to_genetic = (
            nn.ModuleList([_Layer(width, heads, dropout) for _ in range(layers)]) for _ in range(2)
        )
        self.join_genetic, self.join_image = (_Pooling(width, heads) for _ in range(2))
        self.dropout = nn.Dropout(dropout)
        self.genetic_head, self.image_head = (nn.Linear(width, num_scores) for _ in range(2))
        self.head = nn.Linear(2 * width, num_scores)

    @property
    def encoders(self) -> list[nn.Module]:
        """What is trained on each modality alone where the encoders are trained separately."""
        embeddings, pooling = [self.embed_genetic, self.embed_image], [self.pool_genetic, self.pool_image]
        return [*embeddings, *pooling, self.genetic_head, self.image_head]

    def forward(self, genetic: Modality, image: Modality, frozen: bool = False) -> FusionScores:
        """Scores; with `frozen` the encoders get no gradient."""
        (g, g_usable), (i, i_usable) = self.embed_genetic(genetic), self.embed_image(image)
        alone = (
            self.genetic_head(self.dropout(self.pool_genetic(g, g_usable)[0])),
            self.image_head(self.dropout(self.pool_image(i, i_usable)[0])),
        )
        if frozen:
            g, i = g.detach(), i.detach()
        attention = []
        for forth, back in zip(self.to_image, self.to_genetic, strict=True):
            (new_g, g_weights), (new_i, i_weights) = forth(g, i, i_usable), back(i, g, g_usable)
            g, i = new_g, new_i
            attention.append((g_weights, i_weights))
        (from_g, g_read), (from_i, i_read) = self.join_genetic(g, g_usable), self.join_image(i, i_usable)
        scores = self.head(self.dropout(torch.cat([from_g, from_i], dim=-1)))
        return FusionScores(scores, *alone, attention, (g_read, i_read))


class _Embedding(nn.Module):
    """Columns [B, C] to tokens [B, 1 + T, d], of which the first stands for people without the modality."""

    place: Tensor
    scale: Tensor

    def __init__(self, tokens: Sequence[int], width: int) -> None:
        super().__init__()
        counts = np.asarray(tokens, dtype=np.int64)
        place = np.repeat(np.arange(len(counts)), counts)
        self.register_buffer("place", torch.as_tensor(place), persistent=False)
        self.register_buffer("scale", torch.as_tensor((1 / np.sqrt(counts))[place], dtype=torch.float32), False)
        self.num_tokens = len(counts)
        self.weights = nn.Parameter(torch.randn(len(place), width) / math.sqrt(width))
        self.bias = nn.Parameter(torch.randn(self.num_tokens, width) / math.sqrt(width))
        self.missing = nn.Parameter(torch.randn(width) / math.sqrt(width))

    def forward(self, side: Modality) -> tuple[Tensor, Tensor]:
        """Tokens [B, 1 + T, d], and which of them may be attended to [B, 1 + T]."""
        num = len(side.values)
        parts = (side.values * self.scale)[..., None] * self.weights
        tokens = self.bias.expand(num, -1, -1).to(parts.dtype).index_add(1, self.place, parts)
        known = side.values.new_zeros((num, self.num_tokens)).index_add(1, self.place, side.known.to(side.values))
        there = side.there[:, None]
        usable = torch.cat([~there, (known > 0) & there], dim=1)
        # Somebody of whom no token is known has the learned token, too, so that there always is a key.
        first = usable[:, :1] | ~usable[:, 1:].any(dim=1, keepdim=True)
        missing = self.missing.expand(num, 1, -1).to(tokens.dtype)
        return torch.cat([missing, tokens], dim=1), torch.cat([first, usable[:, 1:]], dim=1)


class _Pooling(nn.Module):
    """A learned query ([CLS]) that reads tokens [B, T, d] into [B, d]."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.query = nn.Parameter(0.02 * torch.randn(width))
        self.before, self.after = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = CrossAttention(width, heads)

    def forward(self, tokens: Tensor, usable: Tensor) -> tuple[Tensor, Tensor]:
        query = self.query.expand(len(tokens), 1, -1).to(tokens.dtype)
        read, weights = self.attention(query, self.before(tokens), usable)
        return self.after(read[:, 0]), weights


class _Layer(nn.Module):
    """Tokens of one side read those of the other, then pass a perceptron; both add to what was there."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm, self.other_norm, self.norm_after = (nn.LayerNorm(width) for _ in range(3))
        self.attention = CrossAttention(width, heads)
        self.perceptron = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Dropout(dropout), nn.Linear(2 * width, width)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, other: Tensor, usable: Tensor) -> tuple[Tensor, Tensor]:
        read, weights = self.attention(self.norm(tokens), self.other_norm(other), usable)
        tokens = tokens + self.dropout(read)
        return tokens + self.dropout(self.perceptron(self.norm_after(tokens))), weights


class _PeopleNorm(nn.BatchNorm1d):
    """Batch normalisation over people; of one person there is no variance, and the running statistics stand in."""

    def forward(self, input: Tensor) -> Tensor:
        if len(input) > 1 or not self.training:
            return super().forward(input)
        return functional.batch_norm(
            input, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
        )


def _adapted(num_inputs: int, wanted: int) -> nn.Module:
    return nn.Identity() if num_inputs == wanted else nn.Linear(num_inputs, wanted)


def _perceptron(widths: Sequence[int], dropout: float, normalised: bool) -> nn.Sequential:
    """Linear layers with ReLU and dropout, and batch normalisation where asked for, between them."""
    layers: list[nn.Module] = []
    for place, (before, after) in enumerate(pairwise(widths)):
        if place:
            layers += [*([_PeopleNorm(before)] if normalised else []), nn.ReLU(), nn.Dropout(dropout)]
        layers.append(nn.Linear(before, after))
    return nn.Sequential(*layers)
