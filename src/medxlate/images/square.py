"""From an image's own size to the square that the networks see, and back."""

from __future__ import annotations

import numpy as np
import PIL.Image

from medxlate.images.stack import FloatArray

Spacing = tuple[float, float]  # mm between rows, between columns


def to_square(
    pixels: FloatArray, size: int, *, background: float, spacing: Spacing = (1.0, 1.0)
) -> FloatArray:
    """Fit an image [H, W] into a square [size, size], its aspect ratio in mm kept, centred.

    Shrinking averages (antialiased triangle filter), so no value leaves the image's range; the
    rest is filled with ``background``.
    """
    height, width = pixels.shape
    top, left, height, width = _placement(height, width, size, spacing)
    inner = resize(pixels, height, width)
    if inner.shape == (size, size):
        return inner
    square = np.full((size, size), background, dtype=np.float32)
    square[top : top + height, left : left + width] = inner
    return square


def from_square(
    square: FloatArray, height: int, width: int, *, spacing: Spacing = (1.0, 1.0)
) -> FloatArray:
    """Undo ``to_square``: cut the border off and bring the image to [height, width]."""
    top, left, inner_height, inner_width = _placement(height, width, square.shape[0], spacing)
    inner = square[top : top + inner_height, left : left + inner_width]
    return resize(inner, height, width)


def resize(pixels: FloatArray, height: int, width: int) -> FloatArray:
    """Resample [H, W] to [height, width]; bilinear up, antialiased triangle filter down."""
    if pixels.shape == (height, width):
        return pixels
    image = PIL.Image.fromarray(np.ascontiguousarray(pixels, dtype=np.float32))
    resized = image.resize((width, height), PIL.Image.Resampling.BILINEAR)
    return np.asarray(resized, dtype=np.float32)


def _placement(height: int, width: int, size: int, spacing: Spacing) -> tuple[int, int, int, int]:
    """Return top, left, height and width of the image inside the square."""
    high, wide = height * spacing[0], width * spacing[1]  # mm
    scale = size / max(high, wide)
    inner_height = max(1, round(high * scale))
    inner_width = max(1, round(wide * scale))
    return (size - inner_height) // 2, (size - inner_width) // 2, inner_height, inner_width
