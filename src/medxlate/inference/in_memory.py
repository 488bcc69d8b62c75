"""Volumes in memory through a network, by the steps that files go through; and back to images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from medxlate.base.errors import ImageError, UsageError
from medxlate.images.limits import check_slice_size
from medxlate.images.recipes import Recipe, is_near_empty, to_network
from medxlate.images.square import from_square
from medxlate.images.stack import FloatArray, Stack
from medxlate.inference.engine import Engine, Pending
from medxlate.inference.finite import check_finite
from medxlate.inference.inputs import Reader, SliceBatch

Volume = npt.NDArray[Any]
Spacing = tuple[float, float, float]  # mm between slices, rows and columns


@dataclass(frozen=True)
class Squares:
    """What the network sees of a volume.

    Attributes:
        images: float32 [B, 1, S, S] in [-1, 1], without near-empty slices.
        shown: Which slices these are, [N].
        shape: Rows and columns of a slice.
        spacing: Between rows and between columns, mm.
    """

    images: Tensor
    shown: npt.NDArray[np.bool_]
    shape: tuple[int, int]
    spacing: tuple[float, float]


def squares_of(volume: Volume, reader: Reader, spacing: Spacing = (1.0, 1.0, 1.0)) -> Squares:
    """Bring a volume to what the network sees.

    Args:
        volume: [slices, H, W], or [H, W] for a single image, which never counts as near-empty.
        reader: Of the modality.
        spacing: mm between slices, rows and columns.

    Raises:
        UsageError: It has another number of dimensions, or the spacing is not positive.
        ImageError: Its values cannot be used with the recipe.
    """
    if volume.ndim not in (2, 3) or 0 in volume.shape or volume.dtype.kind not in "iuf":
        raise UsageError(
            f"An array of {volume.dtype} with shape {volume.shape} is not a volume.",
            "Give an array of numbers with shape [slices, H, W] or [H, W].",
        )
    if len(spacing) != 3 or not all(0 < each < np.inf for each in spacing):
        raise UsageError(f"The spacing {spacing} must be three positive numbers in mm.")
    stack = _stack(volume if volume.ndim == 3 else volume[np.newaxis], reader.recipe, spacing)
    limits = reader.recipe.limits(stack)
    images, shown = [], np.zeros(stack.count, dtype=np.bool_)
    for number, pixels in enumerate(stack.slices()):
        stored = reader.recipe.store(
            pixels, reader.prepared_size, limits=limits, spacing=stack.spacing
        )
        shown[number] = volume.ndim == 2 or not is_near_empty(stored)
        if shown[number]:
            images.append(to_network(stored, reader.image_size))
    side = reader.image_size
    found = np.stack(images) if images else np.empty((0, side, side), dtype=np.float32)
    shape = (stack.height, stack.width)
    return Squares(torch.from_numpy(found).unsqueeze(1), shown, shape, stack.spacing)


def outputs_of(squares: Squares, engine: Engine, batch_size: int) -> Tensor:
    """Return the network's outputs, float32 [B, ...] on the CPU, of at least one image."""
    return torch.cat([engine(part) for part in torch.split(squares.images, batch_size)])


def translated(squares: Squares, engine: Engine, batch_size: int) -> FloatArray:
    """Return target slices [N, H, W] in [-1, 1]; near-empty ones are the target's black.

    Raises:
        ModelError: The network gives no finite number.
    """
    found = np.full((len(squares.shown), *squares.shape), -1, dtype=np.float32)
    if squares.shown.any():
        fakes = outputs_of(squares, engine, batch_size).numpy()[:, 0]
        check_finite(fakes, "translator", "slices")
        for number, fake in zip(np.flatnonzero(squares.shown), fakes, strict=True):
            found[number] = from_square(fake, *squares.shape, spacing=squares.spacing)
    return found


def translate_volume(
    volume: Volume,
    reader: Reader,
    engine: Engine,
    target: Recipe,
    *,
    batch_size: int,
    spacing: Spacing = (1.0, 1.0, 1.0),
) -> FloatArray:
    """Translate a volume in memory; see ``Translator.__call__``.

    Args:
        volume: [slices, H, W] or [H, W], in the source's physical values.
        reader: Of the source.
        engine: Runs the generator.
        target: The target's recipe.
        batch_size: Slices handed to the engine at once.
        spacing: mm between slices, rows and columns.

    Returns:
        float32 of the same shape, in the target's physical values.

    Raises:
        ImageError: The array cannot be used with the source's recipe.
        ModelError: The network gives no finite number.
        UsageError: It is not a volume.
    """
    fake = translated(squares_of(volume, reader, spacing), engine, batch_size)
    return target.physical(fake).reshape(volume.shape)


def restored(batch: SliceBatch, squares: Pending | None) -> Iterator[FloatArray]:
    """Yield a batch's target images, each of its input's original height and width.

    Near-empty slices become the target's black.
    """
    fakes = iter(()) if squares is None else iter(squares.wait().numpy())
    for item in batch.items:
        shape = (item.slice.height, item.slice.width)
        if item.slice.near_empty:
            yield np.full(shape, -1, dtype=np.float32)
        else:
            yield from_square(next(fakes)[0], *shape, spacing=item.opened.spacing)


def _stack(volume: Volume, recipe: Recipe, spacing: Spacing) -> Stack:
    count, height, width = volume.shape
    check_slice_size(height, width)
    if not np.isfinite(volume).all():
        raise ImageError("The volume contains values that are not finite.")

    def read(number: int) -> FloatArray:
        return np.array(volume[number], dtype=np.float32, order="C")

    info = np.iinfo(volume.dtype) if volume.dtype in (np.uint8, np.uint16) else None
    stack = Stack(
        count=count,
        height=height,
        width=width,
        spacing=spacing[1:],
        unit=recipe.unit,
        full_range=recipe.output_range if info is None else (float(info.min), float(info.max)),
        read=read,
    )
    if recipe.n4 and count > 1:
        from medxlate.images.bias import correct_bias

        return correct_bias(stack, spacing[0])
    return stack
