"""Generators of the CycleGAN authors' code (junyanz/pytorch-CycleGAN-and-pix2pix).

Its ResnetGenerator (``--netG resnet_9blocks`` or ``resnet_6blocks``, ``--norm instance``) has the
layers of ours in the same places of one nn.Sequential called ``model``: the number in
``model.4.weight`` is that in ``layers.4.weight`` here. Each function says what differs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from medxlate.base.errors import ModelError, UsageError
from medxlate.method.generator import Generator

GREEN = 1  # taken from colour outputs where nothing else is asked for: the most of luma

_FIRST_BLOCK = 10
_AFTER_BLOCKS = 7  # from the first layer after the blocks to the last convolution
_NO_WEIGHTS = ("running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True)
class Converted:
    """A generator of CycleGAN's code as one of ours.

    Attributes:
        state: Weights of ``Generator(width=width, blocks=blocks)``, one channel in and out.
        width: Channels after its first convolution (``--ngf``).
        blocks: Residual blocks.
        inputs: Channels of the images it was trained on (``--input_nc``).
        outputs: Channels of those it makes (``--output_nc``).
        channel: Which of several outputs was taken, from 0; None where there is only one.
        dropout: Whether it was trained with dropout.
    """

    state: dict[str, Tensor]
    width: int
    blocks: int
    inputs: int
    outputs: int
    channel: int | None
    dropout: bool


def convert(given: Mapping[str, Tensor], *, name: str, channel: int | None = None) -> Converted:
    """Convert a generator's state dict to one channel in and one out.

    The kernels of the first convolution are summed over its input channels: the same function
    for grey images, whose red, green and blue are alike. Of several output channels one is taken,
    the same numbers as the network's own channel; their mean or luma would not be a network of
    this form, for tanh comes after the last convolution.

    Args:
        given: The state dict.
        name: Where it is from, for messages.
        channel: Which of several output channels is taken, from 0; None: green.

    Raises:
        ModelError: It is another network's, and which, where that can be told.
        UsageError: There is no such output channel.
    """
    state = _plain_names(given)
    _refuse_others(state, name)
    numbers = {int(found[1]) for key in state if (found := re.match(r"model\.(\d+)\.conv_b", key))}
    blocks, width = len(numbers), len(state["model.1.weight"])
    if numbers != set(range(_FIRST_BLOCK, _FIRST_BLOCK + blocks)) or not blocks:
        raise _unknown(name, "its residual blocks are not in CycleGAN's places")
    dropout = f"model.{_FIRST_BLOCK}.conv_block.6.weight" in state
    last = f"model.{_FIRST_BLOCK + blocks + _AFTER_BLOCKS}"
    own = _own_names(state, width, blocks, dropout=dropout, name=name)
    first, final = "layers.1.weight", last.replace("model", "layers")
    kernel, bias = own[f"{final}.weight"], own[f"{final}.bias"]
    inputs, outputs = own[first].shape[1], bias.numel()
    if kernel.ndim != 4 or bias.ndim != 1 or len(kernel) != outputs or outputs not in (1, 3):
        raise _unknown(name, "its images do not have 1 or 3 channels")
    chosen = _channel(channel, outputs, name)
    own[first] = own[first].double().sum(dim=1, keepdim=True).float()
    own[f"{final}.weight"] = kernel[chosen : chosen + 1]
    own[f"{final}.bias"] = bias[chosen : chosen + 1]
    for key, shape in _shapes(width, blocks).items():
        if own[key].shape != shape:
            theirs = _their_name(key, dropout=dropout)
            raise _unknown(name, f"{theirs} has another shape")
    return Converted(
        {key: value.contiguous() for key, value in own.items()},
        width=width,
        blocks=blocks,
        inputs=inputs,
        outputs=outputs,
        channel=chosen if outputs > 1 else None,
        dropout=dropout,
    )


def _own_names(
    state: Mapping[str, Tensor], width: int, blocks: int, *, dropout: bool, name: str
) -> dict[str, Tensor]:
    """Return the weights under our names in float32, where they are all there and sound."""
    wanted = _shapes(width, blocks)
    own = {_our_name(key, dropout=dropout): value for key, value in state.items()}
    if strange := sorted(own.keys() ^ wanted.keys()):
        theirs = _their_name(strange[0], dropout=dropout)
        # A name from the file may be long, or hold what a terminal obeys.
        what = f"lacks {theirs}" if strange[0] in wanted else f"has too much: {theirs[:60]!a}"
        raise _unknown(name, f"it {what}")
    if all(value.is_floating_point() for value in own.values()):
        own = {key: value.float() for key, value in own.items()}
        if all(bool(torch.isfinite(value).all()) for value in own.values()):
            return own
    raise ModelError(f"{name} is damaged: some weights are not finite numbers.")


def _plain_names(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Leave out DataParallel's prefix, and statistics that old versions kept for instance norm.

    The authors' code leaves those out as well when it loads: instance norm takes its statistics
    from the image.
    """
    parallel = all(key.startswith("module.") for key in given)
    names = {key: key.removeprefix("module.") if parallel else key for key in given}
    return {names[k]: v for k, v in given.items() if k.rpartition(".")[2] not in _NO_WEIGHTS}


def _refuse_others(state: Mapping[str, Tensor], name: str) -> None:
    """Refuse the other networks of that code, and of its relatives, by what tells them apart."""
    first = state.get("model.1.weight")
    if any(key.startswith("model.model.") for key in state):
        raise _unknown(name, "it is a U-Net (--netG unet_...)")
    if any(key.endswith(".filt") for key in state):
        raise _unknown(name, "it uses anti-aliased sampling, the default of the CUT code")
    if "model.0.weight" in state:
        raise _unknown(name, "it is a discriminator (net_D)")
    if first is None or first.ndim != 4 or not first.numel():
        raise _unknown(name, "its layers are not CycleGAN's")
    if "model.2.weight" in state:
        raise _unknown(name, "its norm layers have weights (--norm batch)")
    if "model.1.bias" not in state:
        raise _unknown(name, "it has no instance norm (--norm none)")
    if first.shape[1] not in (1, 3):
        raise _unknown(name, f"it takes images of {first.shape[1]} channels, not 1 or 3")


def _unknown(name: str, why: str) -> ModelError:
    return ModelError(
        f"{name} is not a generator that can be imported: {why}.",
        "Import latest_net_G_A.pth or _G_B.pth of --netG resnet_9blocks or resnet_6blocks with "
        "--norm instance.",
    )


def _our_name(key: str, *, dropout: bool) -> str:
    """Return our name of a weight; dropout takes a place before the second convolution."""
    own = key.replace("model.", "layers.", 1).replace(".conv_block.", ".layers.")
    return re.sub(r"^(layers\.\d+\.layers)\.6\.", r"\1.5.", own) if dropout else own


def _their_name(key: str, *, dropout: bool) -> str:
    """Undo ``_our_name``, for messages."""
    theirs = key.replace("layers.", "model.", 1).replace(".layers.", ".conv_block.")
    return theirs.replace(".conv_block.5.", ".conv_block.6.") if dropout else theirs


def _channel(channel: int | None, outputs: int, name: str) -> int:
    if channel is not None and not 0 <= channel < outputs:
        raise UsageError(
            f"--channel {channel} does not exist: the images of {name} have {outputs} "
            f"channel{'s' if outputs > 1 else ''}.",
            f"Give 0 to {outputs - 1}." if outputs > 1 else "Drop --channel.",
        )
    return channel if channel is not None else min(GREEN, outputs - 1)


def _shapes(width: int, blocks: int) -> dict[str, torch.Size]:
    """Return the shapes of our generator's weights, by name."""
    with torch.device("meta"):
        state = Generator(width=width, blocks=blocks).state_dict()
    return {key: value.shape for key, value in state.items()}
