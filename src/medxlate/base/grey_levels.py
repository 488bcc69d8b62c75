"""Stored grey levels and the networks' [-1, 1]: the one place that converts between them.

Level 0 stands for -1 (black), the highest level, 255 or 65535, for 1 (white). Arrays and tensors
give the same bits, on a GPU as well. Nothing here loads torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor

Bits = Literal[8, 16]
Stored = npt.NDArray[np.unsignedinteger[Any]]
Pixels = TypeVar("Pixels", npt.NDArray[np.floating[Any]], "Tensor")

PEAKS: dict[Bits, int] = {8: 255, 16: 65535}


def peak_of(stored: npt.NDArray[Any]) -> int:
    """Return the highest level of an array's type: 255 for uint8, 65535 for uint16."""
    return PEAKS[8 if stored.dtype == np.uint8 else 16]


def to_levels(unit: npt.NDArray[np.floating[Any]], bits: Bits) -> Stored:
    """Round values in [0, 1] to grey levels, halves to even.

    Returns:
        uint8 or uint16 of the same shape. A value that is not finite has no defined level.
    """
    with np.errstate(invalid="ignore"):
        return (unit * PEAKS[bits]).round().astype(np.uint8 if bits == 8 else np.uint16)


def to_unit(stored: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Return grey levels as float32 in [0, 1]."""
    unit = stored.astype(np.float32)
    unit /= np.float32(peak_of(stored))
    return unit


def to_stored(network: npt.NDArray[np.floating[Any]], bits: Bits) -> Stored:
    """Return values of a network as grey levels; those outside [-1, 1] become black or white.

    Halves are rounded to even; see ``to_levels``.
    """
    return to_levels(_clipped_unit(network), bits)


def from_stored(stored: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Return grey levels (uint8 or uint16, any shape) as float32 in [-1, 1]."""
    return to_unit(stored) * 2 - 1


def to_stored_tensor(network: Tensor) -> Tensor:
    """Return a tensor of a network's values as uint8, as ``to_stored`` does with 8 bits."""
    return (_clipped_unit(network) * PEAKS[8]).round().byte()


def from_stored_tensor(stored: Tensor) -> Tensor:
    """Return a tensor of grey levels as float32 in [-1, 1], bit for bit as ``from_stored`` does.

    Args:
        stored: uint8, or the bits of uint16 as int16, for torch computes little with uint16.
    """
    peak = PEAKS[8]
    if stored.itemsize == 2:
        stored, peak = stored.int().bitwise_and_(0xFFFF), PEAKS[16]
    unit = stored.float()
    # A GPU multiplies with the reciprocal of a number, which gives other bits; not of a tensor.
    return unit.div_(unit.new_full((), peak)).mul_(2).sub_(1)


def _clipped_unit(network: Pixels) -> Pixels:
    return (network.clip(-1, 1) + 1) / 2
