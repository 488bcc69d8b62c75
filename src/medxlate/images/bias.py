"""Correction of the slowly varying brightness of MR images (bias field) by N4.

N. J. Tustison et al., "N4ITK: Improved N3 Bias Correction", IEEE Trans. Med. Imaging 29, 2010.
The field is smooth, so it is estimated on a shrunk volume and interpolated to each slice.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

import numpy as np
import SimpleITK as sitk  # noqa: N813  the name its documentation uses
from scipy.ndimage import map_coordinates

from medxlate.base.errors import ImageError
from medxlate.images.stack import FloatArray, Stack

MAX_SIDE = 48  # voxels of the shrunk volume along each axis
MIN_SIDE = 4  # B-splines of order 3 need as many
ITERATIONS = (30, 30, 30)  # at each level of the B-spline grid
MAX_LOG = math.log(100.0)  # no coil makes a stronger field


def correct_bias(stack: Stack, slice_spacing: float) -> Stack:
    """Estimate the bias field of a stack and return the stack without it.

    At most 48 slices are read, one by one, and shrunk; the whole volume is never held. The result
    does not depend on the number of threads. A stack that holds too little to estimate a field
    from (one value, fewer than two voxels of tissue) comes back unchanged.

    Args:
        stack: MR slices [height, width]; values that are not finite, and slices that cannot be
            read, count as background.
        slice_spacing: Distance between slices, mm.

    Returns:
        A stack whose ``read`` divides by the field, scaled so that its mean logarithm over the
        tissue is 0; unit and full range stay.
    """
    small, steps = _shrink(stack)
    with _one_thread():
        field = _log_field(small, (slice_spacing, *stack.spacing), steps)
    if field is None:
        return stack
    rows = (np.arange(stack.height) - (steps[1] - 1) / 2) / steps[1]
    columns = (np.arange(stack.width) - (steps[2] - 1) / 2) / steps[2]

    def read(number: int) -> FloatArray:
        at = np.meshgrid([number / steps[0]], rows, columns, indexing="ij")
        log = map_coordinates(field, at, order=1, mode="nearest")[0]
        gain: FloatArray = np.exp(-log).astype(np.float32)
        return stack.read(number) * gain

    return replace(stack, read=read)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let ITK use one thread: sums in another order would give other bits.

    Setting it at the N4 filter is not enough, for that runs other filters inside.
    """
    usual = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(usual)


def _shrink(stack: Stack) -> tuple[FloatArray, tuple[int, int, int]]:
    """Return a volume of at most MAX_SIDE a side, and how many voxels each of its voxels spans.

    Along slices every n-th is taken; within slices blocks are averaged.
    """
    down, right = (math.ceil(side / MAX_SIDE) for side in (stack.height, stack.width))
    along = math.ceil(stack.count / MAX_SIDE)
    rows, columns = stack.height // down, stack.width // right
    small = np.zeros((math.ceil(stack.count / along), rows, columns), dtype=np.float32)
    for layer, number in zip(small, range(0, stack.count, along), strict=True):
        with suppress(ImageError):  # raised again where the slice itself is wanted
            pixels = np.nan_to_num(stack.read(number), nan=0.0, posinf=0.0, neginf=0.0)
            blocks = pixels[: rows * down, : columns * right].reshape(rows, down, columns, right)
            layer[:] = blocks.mean(axis=(1, 3))
    return small, (along, down, right)


def _log_field(
    small: FloatArray, spacing: tuple[float, float, float], steps: tuple[int, int, int]
) -> FloatArray | None:
    """Return the logarithm of the field at the shrunk voxels; None where there is no tissue."""
    if small.min() == small.max():
        return None
    image = sitk.GetImageFromArray(np.maximum(small, 0))
    image.SetSpacing([spacing[axis] * steps[axis] for axis in (2, 1, 0)])
    otsu = sitk.OtsuThresholdImageFilter()
    otsu.SetInsideValue(0)
    otsu.SetOutsideValue(1)
    mask = otsu.Execute(image)
    tissue = sitk.GetArrayViewFromImage(mask).astype(bool) & (small > 0)
    if np.unique(small[tissue]).size < 2:
        return None
    size = small.shape
    image, mask = _padded(image), _padded(mask)
    n4 = sitk.N4BiasFieldCorrectionImageFilter()
    n4.SetMaximumNumberOfIterations(ITERATIONS)
    n4.Execute(image, mask)
    field = sitk.GetArrayFromImage(n4.GetLogBiasFieldAsImage(image))
    field = field[: size[0], : size[1], : size[2]].astype(np.float32)
    field = np.clip(np.nan_to_num(field), -MAX_LOG, MAX_LOG)
    return np.asarray(field - field[tissue].mean(), dtype=np.float32)


def _padded(image: sitk.Image) -> sitk.Image:
    """Repeat the last voxels of axes that are too short for the splines."""
    missing = [max(0, MIN_SIDE - side) for side in image.GetSize()]
    if not any(missing):
        return image
    padded: sitk.Image = sitk.ZeroFluxNeumannPad(image, [0, 0, 0], missing)
    return padded
