"""Saved weights of AutoencoderKL and DiffusionModelUNet, by MONAI or by monai-generative, under MONAI's names.

The old package (monai-generative 0.2.3 and before) gives some tensors other names, and its self-attention stores a last
linear layer, `proj_attn`, that it never applies. MONAI's own `load_old_state_dict` copies that layer into one that is
applied, unless the network was built with include_fc=False. Here the network is built from what the tensors are: every
tensor of the file is used once or dropped for a reason, every tensor of the network is filled, or nothing is loaded.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gen3d.core.errors import UserError
from gen3d.nets.imported.monai_networks import AutoencoderArguments, UNetArguments, Upsampling, expected_tensors

Tensors = dict[str, Tensor]

AUTOENCODER_MARK = "encoder.blocks.0.conv.weight"
UNET_MARK = "conv_in.conv.weight"
"""Tensors that every AutoencoderKL and every DiffusionModelUNet has, in both packages."""

_LINEAR = re.compile(r"(?P<block>.*(?<!\.attn)(?<!\.attn1)(?<!\.attn2))\.(?P<name>to_[qkv])\.(?P<kind>weight|bias)")
_UNUSED = re.compile(r".*\.proj_attn\.(weight|bias)")
_LAST_LAYER = re.compile(r".*\.attn1?\.out_proj\.(weight|bias)")
_UPSAMPLING = re.compile(
    r"(?P<block>decoder\.blocks\.\d+|up_blocks\.\d+\.upsampler)\.conv\.conv\.(?P<kind>weight|bias)"
)


@dataclass(frozen=True)
class Saved:
    """Tensors under MONAI's names, whether the old package saved them, and the names of those stored without being used."""

    tensors: Tensors
    old: bool
    unused: tuple[str, ...]


def under_new_names(saved: Mapping[str, Tensor], include_fc: bool = True) -> Saved:
    """The tensors of either package under MONAI's names. The argument is left as it is.

    Args:
        saved: tensors by name.
        include_fc: of a training with MONAI. MONAI 1.4 stores the last layer of self-attention also where it is false and
            the layer is not applied, and no tensor shows that.
    """
    tensors: Tensors = {}
    unused = []
    for name, tensor in saved.items():
        if _UNUSED.fullmatch(name) or (not include_fc and _LAST_LAYER.fullmatch(name)):
            unused.append(name)
        else:
            tensors[_new_name(name)] = tensor
    old = any(_new_name(name) != name or _UNUSED.fullmatch(name) for name in saved)
    return Saved(tensors, old, tuple(unused))


def _new_name(name: str) -> str:
    if match := _LINEAR.fullmatch(name):
        return f"{match['block']}.attn.{match['name']}.{match['kind']}"
    if match := _UPSAMPLING.fullmatch(name):
        return f"{match['block']}.postconv.conv.{match['kind']}"
    return name.replace(".to_out.0.", ".out_proj.")


def fill(network: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Copy tensors into the network; every name and shape must match, every number be finite.

    Raises:
        UserError: naming the first tensor that is missing, left over, of another shape, or not finite.
    """
    expected = network.state_dict()
    compare({name: tensor.shape for name, tensor in expected.items()}, tensors, source)
    with torch.no_grad():
        for name, tensor in expected.items():
            tensor.copy_(tensors[name])


def compare(expected: Mapping[str, torch.Size], tensors: Mapping[str, Tensor], source: str) -> None:
    """Refuse tensors that are not exactly those expected, or not finite.

    Raises:
        UserError: naming the first tensor that is wrong.
    """
    missing = [name for name in expected if name not in tensors]
    left_over = [name for name in tensors if name not in expected]
    misshapen = [name for name in expected if name in tensors and expected[name] != tensors[name].shape]
    for problem, names in (("missing", missing), ("of no known use", left_over), ("of an unexpected shape", misshapen)):
        if names:
            raise UserError(
                f"{source}: {_count(names)} {problem}, such as {names[0]}; weights are loaded completely or not at all, so "
                "give the file that the training saved."
            )
    broken = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise UserError(f"{source}: {_count(broken)} not finite, such as {broken[0]}; the training had failed.")


def _count(names: list[str]) -> str:
    return f"{len(names)} tensor{'s are' if len(names) > 1 else ' is'}"


class _Unread(Exception):
    """The tensors are not those of the network that was looked for."""


def autoencoder_arguments(
    saved: Saved, source: str, norm_num_groups: int, norm_eps: float, old_transposed: bool
) -> tuple[AutoencoderArguments, Tensors]:
    """What an AutoencoderKL with these tensors was built with, and the tensors under its names.

    Args:
        saved: the tensors.
        source: the file, for messages.
        norm_num_groups, norm_eps: what no tensor shows.
        old_transposed: the old package's use_convtranspose, which no tensor shows either: its transposed convolutions
            have the names and shapes of its ordinary ones.

    Raises:
        UserError: the tensors are not those of a 3D AutoencoderKL.
    """
    tensors = saved.tensors
    _require_three_dimensions(tensors, AUTOENCODER_MARK, source)
    try:
        encoder, decoder = _Blocks(tensors, "encoder.blocks"), _Blocks(tensors, "decoder.blocks")
        encoder_levels, encoder_nonlocal = _split(encoder.letters[1:-2], at_start=False)
        decoder_levels, decoder_nonlocal = _split(decoder.letters[1:-2], at_start=True)
        if encoder_levels != decoder_levels[::-1]:
            raise _Unread("its encoder and decoder differ in their levels")
        upsampling = _upsampling(tensors, saved.old, old_transposed)
        arguments = AutoencoderArguments(
            num_channels=_shape(tensors, AUTOENCODER_MARK)[1],
            channels=tuple(encoder.widths()),
            num_res_blocks=tuple(level.count("R") for level in encoder_levels),
            attention_levels=tuple("A" in level for level in encoder_levels),
            latent_channels=_shape(tensors, "quant_conv_mu.conv.weight")[0],
            with_encoder_nonlocal_attn=encoder_nonlocal,
            with_decoder_nonlocal_attn=decoder_nonlocal,
            include_fc=_has_part(tensors, ".attn.out_proj."),
            use_combined_linear=_has_part(tensors, ".attn.qkv."),
            upsampling=upsampling,
            norm_num_groups=norm_num_groups,
            norm_eps=norm_eps,
        )
    except _Unread as reason:
        raise UserError(f"{source}: not an AutoencoderKL of MONAI or monai-generative: {reason}.") from None
    _require_groups(arguments.channels, norm_num_groups, source, "autoencoder_options.norm_num_groups")
    if upsampling == "transposed_old":
        tensors = {name.replace(".postconv.conv.", ".conv.conv."): tensor for name, tensor in tensors.items()}
    compare(expected_tensors(arguments), tensors, source)
    return arguments, tensors


def unet_arguments(
    saved: Saved,
    source: str,
    norm_num_groups: int,
    norm_eps: float,
    num_head_channels: tuple[int, ...],
    upcast_attention: bool,
) -> tuple[UNetArguments, Tensors]:
    """What a DiffusionModelUNet with these tensors was built with, and the tensors under its names.

    Args:
        saved: the tensors.
        source: the file, for messages.
        norm_num_groups, norm_eps, upcast_attention: what no tensor shows.
        num_head_channels: one number, or one per level; nor does any tensor show these.

    Raises:
        UserError: the tensors are not those of a 3D DiffusionModelUNet, or one argument does not go with them.
    """
    tensors = saved.tensors
    _require_three_dimensions(tensors, UNET_MARK, source)
    if "class_embedding.weight" in tensors:
        raise UserError(
            f"{source}: the network takes a class (num_class_embeds), which gen3d cannot import; it can import networks "
            "conditioned by cross-attention, by concatenated channels, by both, or not at all."
        )
    try:
        levels = range(_number_of(tensors, "down_blocks"))
        context = {shape[1] for name, tensor in tensors.items() if (shape := tensor.shape) and _CONTEXT.fullmatch(name)}
        if len(context) > 1:
            raise _Unread("its cross-attention takes conditions of several sizes")
        channels = tuple(_shape(tensors, f"down_blocks.{level}.resnets.0.conv1.conv.weight")[0] for level in levels)
        attention = tuple(_number_of(tensors, f"down_blocks.{level}.attentions") > 0 for level in levels)
        arguments = UNetArguments(
            in_channels=_shape(tensors, UNET_MARK)[1],
            out_channels=_shape(tensors, "out.2.conv.weight")[0],
            channels=channels,
            num_res_blocks=tuple(_number_of(tensors, f"down_blocks.{level}.resnets") for level in levels),
            attention_levels=attention,
            num_head_channels=_heads(num_head_channels, channels, attention, source),
            resblock_updown="down_blocks.0.downsampler.conv1.conv.weight" in tensors,
            cross_attention_dim=context.pop() if context else None,
            transformer_num_layers=max(1, _number_of(tensors, "middle_block.attention.transformer_blocks")),
            include_fc=_has_part(tensors, ".attn.out_proj.", ".attn1.out_proj."),
            use_combined_linear=_has_part(tensors, ".attn.qkv.", ".attn1.qkv."),
            upcast_attention=upcast_attention,
            norm_num_groups=norm_num_groups,
            norm_eps=norm_eps,
        )
    except _Unread as reason:
        raise UserError(f"{source}: not a DiffusionModelUNet of MONAI or monai-generative: {reason}.") from None
    _require_groups(arguments.channels, norm_num_groups, source, "diffusion_options.norm_num_groups")
    compare(expected_tensors(arguments), tensors, source)
    return arguments, tensors


_CONTEXT = re.compile(r".*\.attn2\.to_k\.weight")


class _Blocks:
    """The numbered blocks of an encoder or decoder, one letter each: Convolution, Residual, Attention, Down or Up, Norm."""

    def __init__(self, tensors: Tensors, prefix: str) -> None:
        self._tensors, self._prefix = tensors, prefix
        self.letters = "".join(self._letter(place) for place in range(_number_of(tensors, prefix)))
        if not re.fullmatch(r"C[RAU]+NC", self.letters):
            raise _Unread(f"its {prefix} do not follow each other as they should")

    def _letter(self, place: int) -> str:
        for letter, part in (
            ("R", "norm1.weight"),
            ("A", "norm.weight"),
            ("U", "conv.conv.weight"),
            ("U", "postconv.conv.weight"),
            ("U", "deconv.weight"),
            ("C", "conv.weight"),
            ("N", "weight"),
        ):
            if f"{self._prefix}.{place}.{part}" in self._tensors:
                return letter
        raise _Unread(f"it has no {self._prefix}.{place} of a known kind")

    def widths(self) -> Iterable[int]:
        """Channels of each level."""
        for place, letter in enumerate(self.letters):
            if letter == "R" and self.letters[place - 1] in "CU":
                yield _shape(self._tensors, f"{self._prefix}.{place}.conv1.conv.weight")[0]


def _split(letters: str, at_start: bool) -> tuple[list[str], bool]:
    """The letters of each level, and whether Residual, Attention, Residual stand apart at one end.

    A level is either R...R or RA...RA, so that R, A, R, R at the start and A, R at the end occur only with the latter.
    """
    apart = bool(re.match(r"RAR(R|U)", letters) if at_start else re.search(r"RAR$", letters))
    if apart:
        letters = letters[3:] if at_start else letters[:-3]
    levels = letters.split("U")
    if not all(re.fullmatch(r"R+|(RA)+", level) for level in levels):
        raise _Unread("its residual and attention blocks do not follow each other as they should")
    return levels, apart


def _upsampling(tensors: Tensors, old: bool, old_transposed: bool) -> Upsampling:
    if _has_part(tensors, ".deconv."):
        return "transposed"
    if old_transposed and not old:
        raise _Unread("use_convtranspose is said of it, but MONAI's transposed convolutions have names that it lacks")
    return "transposed_old" if old_transposed else "nearest"


def _heads(
    option: tuple[int, ...], channels: tuple[int, ...], attention: tuple[bool, ...], source: str
) -> tuple[int, ...]:
    """Channels per head of every level; the last level's are those of the middle block too, which always has attention."""
    per_level = option * len(channels) if len(option) == 1 else option
    if len(per_level) != len(channels):
        raise UserError(
            f"{source}: the network has {len(channels)} levels, but diffusion_options.num_head_channels has {len(option)} "
            "entries; give one number, or one per level."
        )
    used = (*attention[:-1], True)
    for head, width, attends in zip(per_level, channels, used, strict=True):
        if attends and (head <= 0 or width % head):
            raise UserError(
                f"{source}: diffusion_options.num_head_channels={list(option)} does not divide a level of {width} channels; "
                "give the value that the network was trained with."
            )
    return per_level


def _require_groups(channels: tuple[int, ...], num_groups: int, source: str, key: str) -> None:
    unfit = [width for width in channels if width % num_groups]
    if unfit:
        raise UserError(
            f"{source}: {key}={num_groups} does not divide a level of {unfit[0]} channels; give the value that the network "
            "was trained with."
        )


def _require_three_dimensions(tensors: Tensors, mark: str, source: str) -> None:
    """The first convolution is there, and is one of volumes."""
    if mark not in tensors:
        raise UserError(f"{source}: holds no tensor {mark}, which every such network of MONAI has; give another file.")
    if (dimensions := tensors[mark].ndim - 2) != 3:
        raise UserError(f"{source}: a network of {dimensions}D images, but gen3d works on volumes.")


def _number_of(tensors: Tensors, prefix: str) -> int:
    """One more than the largest number that follows the prefix."""
    start = len(prefix) + 1
    numbers = {name[start:].partition(".")[0] for name in tensors if name.startswith(f"{prefix}.")}
    return 1 + max((int(number) for number in numbers if number.isdecimal()), default=-1)


def _shape(tensors: Tensors, name: str) -> torch.Size:
    if name not in tensors:
        raise _Unread(f"it has no tensor {name}")
    return tensors[name].shape


def _has_part(tensors: Tensors, *parts: str) -> bool:
    return any(part in name for name in tensors for part in parts)
