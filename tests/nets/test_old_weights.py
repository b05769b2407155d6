"""Weights of monai-generative and of MONAI give what the packages themselves compute, or are refused."""

from __future__ import annotations

from itertools import product
from typing import Any

import monai.networks.nets as monai_networks
import pytest
import torch
from torch import Tensor

from gen3d.core.errors import UserError
from gen3d.nets.imported.denoiser import ImportedDenoiser
from gen3d.nets.imported.monai_networks import AutoencoderArguments, UNetArguments
from gen3d.nets.imported.old_weights import autoencoder_arguments, fill, under_new_names, unet_arguments
from tests.old_package import distance, old_networks, with_random_weights

WIDTHS = (8, 12)
VOLUME = torch.randn(1, 1, 8, 8, 8, generator=torch.Generator().manual_seed(1))
LATENT = torch.randn(2, 7, 8, 8, 8, generator=torch.Generator().manual_seed(2))
CONTEXT = torch.randn(2, 1, 4, generator=torch.Generator().manual_seed(3))
TIMES = torch.tensor([17.0, 613.0])
CLOSE = 5e-6
BOTH = list(product([False, True], repeat=2))


def autoencoder_settings(attention: tuple[bool, bool] = (False, True), **settings: Any) -> dict[str, Any]:
    return {
        "spatial_dims": 3,
        "num_res_blocks": (1, 2),
        "attention_levels": attention,
        "norm_num_groups": 4,
        **settings,
    }


def unet_settings(attention: tuple[bool, bool] = (False, True), **settings: Any) -> dict[str, Any]:
    return {
        "spatial_dims": 3,
        "in_channels": 7,
        "out_channels": 3,
        "num_res_blocks": (1, 2),
        "attention_levels": attention,
        "norm_num_groups": 4,
        "num_head_channels": 4,
        **settings,
    }


def read_autoencoder(
    tensors: dict[str, Tensor], transposed: bool = False, last_layer: bool = True
) -> tuple[AutoencoderArguments, Any]:
    saved = under_new_names(tensors, last_layer)
    arguments, found = autoencoder_arguments(saved, "file.pt", 4, 1e-6, transposed)
    network = arguments.build().eval()
    fill(network, found, "file.pt")
    return arguments, network


def read_unet(tensors: dict[str, Tensor], heads: tuple[int, ...] = (4,)) -> tuple[UNetArguments, Any]:
    arguments, found = unet_arguments(under_new_names(tensors), "file.pt", 4, 1e-6, heads, False)
    network = arguments.build().eval()
    fill(network, found, "file.pt")
    return arguments, network


@torch.no_grad()
def outputs(autoencoder: Any) -> list[Tensor]:
    return [*autoencoder.encode(VOLUME), autoencoder.reconstruct(VOLUME)]


ATTENTION = [(False, False), (False, True), (True, False), (True, True)]


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(("in_encoder", "in_decoder"), BOTH)
@pytest.mark.parametrize("attention", ATTENTION)
def test_an_old_autoencoder_gives_what_the_old_package_gives(
    attention: tuple[bool, bool], in_encoder: bool, in_decoder: bool, transposed: bool
) -> None:
    settings = autoencoder_settings(
        attention,
        with_encoder_nonlocal_attn=in_encoder,
        with_decoder_nonlocal_attn=in_decoder,
        use_convtranspose=transposed,
    )
    old = with_random_weights(old_networks().AutoencoderKL(num_channels=WIDTHS, **settings))
    arguments, network = read_autoencoder(old.state_dict(), transposed)
    assert arguments.channels == WIDTHS
    assert arguments.num_res_blocks == (1, 2)
    assert arguments.attention_levels == attention
    assert (arguments.with_encoder_nonlocal_attn, arguments.with_decoder_nonlocal_attn) == (in_encoder, in_decoder)
    for expected, found in zip(outputs(old), outputs(network), strict=True):
        assert distance(expected, found) < CLOSE


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(("last_layer", "combined"), BOTH)
@pytest.mark.parametrize("attention", ATTENTION)
def test_an_autoencoder_of_monai_comes_back_as_it_was(
    attention: tuple[bool, bool], last_layer: bool, combined: bool, transposed: bool
) -> None:
    settings = autoencoder_settings(
        attention, include_fc=last_layer, use_combined_linear=combined, use_convtranspose=transposed
    )
    saved = with_random_weights(monai_networks.AutoencoderKL(channels=WIDTHS, **settings))
    _, network = read_autoencoder(saved.state_dict())
    for expected, found in zip(outputs(saved), outputs(network), strict=True):
        assert torch.equal(expected, found)


@pytest.mark.parametrize("heads", [(4,), (4, 6)])
@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize("context", [None, 4])
@pytest.mark.parametrize("attention", [(False, False), (False, True), (True, True)])
def test_an_old_unet_gives_what_the_old_package_gives(
    attention: tuple[bool, bool], context: int | None, folded: bool, heads: tuple[int, ...]
) -> None:
    settings = unet_settings(
        attention,
        with_conditioning=context is not None,
        cross_attention_dim=context,
        resblock_updown=folded,
        transformer_num_layers=2,
        num_head_channels=heads if len(heads) > 1 else heads[0],
    )
    old = with_random_weights(old_networks().DiffusionModelUNet(num_channels=WIDTHS, **settings))
    arguments, network = read_unet(old.state_dict(), heads)
    assert arguments.resblock_updown == folded
    assert arguments.cross_attention_dim == context
    given = None if context is None else CONTEXT
    with torch.no_grad():
        assert distance(old(LATENT, TIMES, context=given), network(LATENT, TIMES, context=given)) < CLOSE


@pytest.mark.parametrize(("last_layer", "combined"), BOTH)
@pytest.mark.parametrize("context", [None, 4])
def test_a_unet_of_monai_comes_back_as_it_was(context: int | None, last_layer: bool, combined: bool) -> None:
    settings = unet_settings(
        with_conditioning=context is not None,
        cross_attention_dim=context,
        include_fc=last_layer,
        use_combined_linear=combined,
    )
    saved = with_random_weights(monai_networks.DiffusionModelUNet(channels=WIDTHS, **settings))
    _, network = read_unet(saved.state_dict())
    given = None if context is None else CONTEXT
    with torch.no_grad():
        assert torch.equal(saved(LATENT, TIMES, context=given), network(LATENT, TIMES, context=given))


def test_a_layer_that_monai_1_4_stores_but_does_not_apply_is_left_out() -> None:
    saved = with_random_weights(monai_networks.AutoencoderKL(channels=WIDTHS, **autoencoder_settings(include_fc=False)))
    tensors = dict(saved.state_dict())
    for name in [name for name in tensors if name.endswith("attn.to_q.weight")]:
        block = name.removesuffix("to_q.weight")
        tensors |= {f"{block}out_proj.weight": tensors[name] * 2, f"{block}out_proj.bias": tensors[f"{block}to_q.bias"]}
    _, network = read_autoencoder(tensors, last_layer=False)
    _, trusting = read_autoencoder(tensors)
    assert torch.equal(outputs(saved)[-1], outputs(network)[-1])
    assert distance(outputs(saved)[-1], outputs(trusting)[-1]) > 0.01


def test_monais_own_loader_is_wrong_with_attention_and_says_nothing() -> None:
    """Why there is a loader here: should this fail one day, MONAI has mended its own."""
    settings = autoencoder_settings()
    old = with_random_weights(old_networks().AutoencoderKL(num_channels=WIDTHS, **settings))
    theirs = monai_networks.AutoencoderKL(channels=WIDTHS, **settings).eval()
    theirs.load_old_state_dict(dict(old.state_dict()))
    assert distance(outputs(old)[-1], outputs(theirs)[-1]) > 0.01


def test_the_imported_denoiser_tells_the_network_its_conditions_both_ways() -> None:
    settings = unet_settings(with_conditioning=True, cross_attention_dim=4)
    old = with_random_weights(old_networks().DiffusionModelUNet(num_channels=WIDTHS, **settings))
    arguments, network = read_unet(old.state_dict())
    denoiser = ImportedDenoiser((8, 8, 8), arguments, 4).eval()
    denoiser.network.load_state_dict(network.state_dict())
    conditions = CONTEXT[:, 0]
    maps = conditions[:, :, None, None, None].expand(2, 4, 8, 8, 8)
    with torch.no_grad():
        expected = old(torch.cat([LATENT[:, :3], maps], dim=1), TIMES, context=CONTEXT)
        assert distance(expected, denoiser(LATENT[:, :3], TIMES, conditions)) < CLOSE
        with pytest.raises(UserError, match="unknown condition"):
            denoiser(LATENT[:, :3], TIMES, torch.full_like(conditions, torch.nan))
    with pytest.raises(UserError, match=r"takes 4 conditions, but .* names 3"):
        ImportedDenoiser((8, 8, 8), arguments, 3)


def test_the_given_tensors_are_left_as_they_are() -> None:
    tensors = monai_networks.AutoencoderKL(channels=WIDTHS, **autoencoder_settings(include_fc=False)).state_dict()
    names, first = list(tensors), tensors["encoder.blocks.0.conv.weight"].clone()
    read_autoencoder(tensors)
    assert list(tensors) == names
    assert torch.equal(tensors["encoder.blocks.0.conv.weight"], first)


def saved_autoencoder(**settings: Any) -> dict[str, Tensor]:
    return dict(monai_networks.AutoencoderKL(channels=WIDTHS, **autoencoder_settings(**settings)).state_dict())


def saved_unet(**settings: Any) -> dict[str, Tensor]:
    return dict(monai_networks.DiffusionModelUNet(channels=WIDTHS, **unet_settings(**settings)).state_dict())


def test_weights_that_are_not_complete_are_refused() -> None:
    missing = saved_autoencoder()
    del missing["decoder.blocks.3.norm1.bias"]
    with pytest.raises(UserError, match=r"1 tensor is missing, such as decoder\.blocks\.3\.norm1\.bias"):
        read_autoencoder(missing)
    with pytest.raises(UserError, match=r"1 tensor is of no known use, such as extra\.weight"):
        read_autoencoder({**saved_autoencoder(), "extra.weight": torch.zeros(1)})
    with pytest.raises(UserError, match=r"1 tensor is not finite, such as quant_conv_mu\.conv\.bias"):
        read_autoencoder({**saved_autoencoder(), "quant_conv_mu.conv.bias": torch.full((3,), torch.nan)})
    with pytest.raises(UserError, match=r"1 tensor is of an unexpected shape, such as quant_conv_mu\.conv\.bias"):
        read_autoencoder({**saved_autoencoder(), "quant_conv_mu.conv.bias": torch.zeros(2)})
    with pytest.raises(UserError, match=r"not an AutoencoderKL .*no tensor quant_conv_mu"):
        read_autoencoder({name: t for name, t in saved_autoencoder().items() if not name.startswith("quant_conv_mu")})


def test_networks_that_cannot_be_right_are_refused() -> None:
    with pytest.raises(UserError, match="2D images"):
        read_autoencoder(saved_autoencoder(spatial_dims=2))
    with pytest.raises(UserError, match=r"holds no tensor encoder\.blocks\.0"):
        read_autoencoder(saved_unet())
    with pytest.raises(UserError, match=r"takes a class \(num_class_embeds\)"):
        read_unet(saved_unet(num_class_embeds=3))
    with pytest.raises(UserError, match="use_convtranspose is said of it"):
        read_autoencoder(saved_autoencoder(), transposed=True)
    with pytest.raises(UserError, match="norm_num_groups=5 does not divide a level of 8 channels"):
        autoencoder_arguments(under_new_names(saved_autoencoder()), "file.pt", 5, 1e-6, False)
    with pytest.raises(UserError, match=r"has 2 levels, but .*num_head_channels has 3 entries"):
        read_unet(saved_unet(), heads=(4, 4, 4))
    with pytest.raises(UserError, match=r"num_head_channels=\[5\] does not divide a level of 12 channels"):
        read_unet(saved_unet(), heads=(5,))
