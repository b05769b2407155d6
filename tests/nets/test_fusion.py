"""Networks of genetics and images: the published numbers of weights, attention over one token, masks and missing sides."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gen3d.nets.classifiers.base import num_weights
from gen3d.nets.fusion import CrossAttention, Modality, PublishedFusion, TokenFusion


def side(num_people: int, columns: int, seed: int = 0, there: bool = True) -> Modality:
    values = torch.randn((num_people, columns), generator=torch.Generator().manual_seed(seed))
    return Modality(values, torch.ones_like(values, dtype=torch.bool), torch.full((num_people,), there))


@pytest.fixture
def tokens() -> TokenFusion:
    torch.manual_seed(0)
    return TokenFusion([1, 2, 1], [1, 1, 3, 1], 2, width=8, heads=2, layers=2, dropout=0.0).eval()


def test_the_published_encoders_have_the_published_numbers_of_weights() -> None:
    network = PublishedFusion(130, 512, 4, 0.3)
    assert num_weights(network.genetic) == 75_456
    assert num_weights(network.image) == 147_776
    assert num_weights(network.adapt_genetic) == num_weights(network.adapt_image) == 0
    assert num_weights(PublishedFusion(6, 512, 4, 0.3).adapt_genetic) == 7 * 130
    shapes = [tuple(layer.weight.shape) for layer in network.genetic if isinstance(layer, torch.nn.Linear)]
    assert shapes == [(256, 130), (128, 256), (64, 128)]


def test_attention_over_one_token_is_one_for_everybody() -> None:
    network = PublishedFusion(5, 7, 2, 0.0).eval()
    for layer in network.modules():
        if isinstance(layer, CrossAttention):  # weights as large as they like
            torch.nn.init.normal_(layer.query.weight, std=30.0)
    ((forth, back),) = network(side(9, 5), side(9, 7, 1)).attention
    assert (forth == 1).all()
    assert (back == 1).all()


def test_attention_is_that_of_torch() -> None:
    ours, theirs = CrossAttention(8, 2), torch.nn.MultiheadAttention(8, 2, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([ours.query.weight, ours.key.weight, ours.value.weight]))
        theirs.in_proj_bias.copy_(torch.cat([ours.query.bias, ours.key.bias, ours.value.bias]))
        theirs.out_proj.load_state_dict(ours.out.state_dict())
    queries, keys = torch.randn(3, 4, 8), torch.randn(3, 5, 8)
    usable = torch.tensor([[True] * 5, [True, False, True, False, True], [False] * 4 + [True]])
    read, weights = ours(queries, keys, usable)
    wanted, their_weights = theirs(queries, keys, keys, key_padding_mask=~usable, average_attn_weights=False)
    assert torch.allclose(read, wanted, atol=1e-6)
    assert torch.allclose(weights, their_weights, atol=1e-6)
    assert (weights[2, ..., :4] == 0).all()


def answers(
    network: TokenFusion | PublishedFusion, genetic: Modality, image: Modality
) -> tuple[Tensor, Tensor, Tensor]:
    scores = network(genetic, image)
    return scores.both, scores.genetic, scores.image


@pytest.mark.parametrize("kind", ["tokens", "published"])
def test_what_a_person_lacks_does_not_matter(kind: str, tokens: TokenFusion) -> None:
    """Whatever lies where genetics are missing, the answer is the same, and it still depends on the image."""
    network = tokens if kind == "tokens" else PublishedFusion(4, 6, 2, 0.0).eval()
    image = side(5, 6, 1)
    one, other = (answers(network, side(5, 4, seed, there=False), image) for seed in (2, 3))
    for first, second in zip(one, other, strict=True):
        assert torch.equal(first, second)
    assert (one[1] == one[1][0]).all()
    assert len(one[0].unique(dim=0)) == 5
    nobody = answers(network, side(5, 4, there=False), side(5, 6, there=False))
    assert all(torch.allclose(part, part[:1].expand_as(part), atol=1e-6) for part in nobody)


def test_a_token_of_which_nothing_is_known_is_masked(tokens: TokenFusion) -> None:
    genetic, image = side(4, 4), side(4, 6, 1)
    known = genetic.known.clone()
    known[:, 1:3] = False
    ones = [Modality(genetic.values + shift * ~known, known, genetic.there) for shift in (0.0, 0.0)]
    assert torch.equal(tokens(ones[0], image).both, tokens(ones[1], image).both)
    (_, back), *_ = tokens(ones[0], image).attention
    assert (back[..., 2] == 0).all()
    assert (back[..., 0] == 0).all()
    assert torch.allclose(back.sum(-1), torch.ones(()))


def test_each_side_alone_looks_at_nothing_else(tokens: TokenFusion) -> None:
    first, second = (tokens(side(4, 4), side(4, 6, seed)) for seed in (1, 2))
    assert torch.equal(first.genetic, second.genetic)
    assert not torch.equal(first.image, second.image)
    assert not torch.equal(first.both, second.both)


def test_frozen_encoders_get_no_gradient_of_the_fusion(tokens: TokenFusion) -> None:
    tokens(side(4, 4), side(4, 6, 1), frozen=True).both.sum().backward()
    encoders = [weights for encoder in tokens.encoders for weights in encoder.parameters()]
    assert all(weights.grad is None for weights in encoders)
    others = [weights for weights in tokens.parameters() if all(weights is not one for one in encoders)]
    assert any(weights.grad is not None and bool(weights.grad.abs().sum() > 0) for weights in others)
