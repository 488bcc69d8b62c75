"""The slices of a scan as they are stored: one way for all commands."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from medxlate.base.errors import ImageError
from medxlate.base.grey_levels import Stored
from medxlate.images.open import cut_of, open_stack, source_of, stored_number
from medxlate.images.orientation import Cut
from medxlate.images.recipes import Limits, Recipe, is_near_empty
from medxlate.images.scan import RASTER_FORMATS, Scan

NEAR_EMPTY = "near-empty: under 1 % of its pixels lie above 5 % of the recipe's range"


@dataclass(frozen=True)
class Opened:
    """A scan that is being read.

    Attributes:
        scan: The scan.
        cut: How it is cut; None for an image without a place in space.
        count: How many slices it has.
        spacing: Distance between rows and between columns, mm.
        limits: The physical values of black and white.
        note: What is to be known about how it is read; "" for nothing.
        slices: Its slices, read one by one.
    """

    scan: Scan
    cut: Cut | None
    count: int
    spacing: tuple[float, float]
    limits: Limits
    note: str
    slices: Iterator[Slice]


@dataclass(frozen=True)
class Slice:
    """One slice.

    Attributes:
        number: From 0 along the plane's normal.
        stored_number: Which slice of the series as it is stored, from 0.
        file: Relative path of the file that holds it; the scan's name where it was cut across.
        height: Original rows.
        width: Original columns.
        stored: Integers [size, size]; None where it cannot be read.
        problem: Why it cannot be read.
        near_empty: Whether it shows next to nothing; single images never count as such.
        lowest: Its lowest physical value; NaN where it cannot be read or holds only padding.
    """

    number: int
    stored_number: int
    file: str
    height: int
    width: int
    stored: Stored | None
    problem: str = ""
    near_empty: bool = False
    lowest: float = math.nan


def open_slices(scan: Scan, recipe: Recipe, size: int) -> Opened:
    """Open a scan to read its slices as squares of integers.

    Args:
        scan: The scan.
        recipe: Its modality's recipe.
        size: Side of the squares, pixels.

    Raises:
        ImageError: It cannot be read with this recipe, as a whole.
    """
    stack = open_stack(scan, recipe)
    cut = cut_of(scan, recipe)
    limits = recipe.limits(stack)

    def read(number: int) -> Slice:
        place = (number, stored_number(cut, number), source_of(scan, cut, number))
        try:
            pixels = stack.read(number)
            lowest = float(np.fmin.reduce(pixels, axis=None))  # NaN counts only where all are
            stored = recipe.store(pixels, size, limits=limits, spacing=stack.spacing)
        except ImageError as problem:
            return Slice(*place, stack.height, stack.width, None, str(problem))
        empty = scan.format not in RASTER_FORMATS and is_near_empty(stored)
        return Slice(*place, stack.height, stack.width, stored, "", empty, lowest)

    slices = (read(number) for number in range(stack.count))
    return Opened(scan, cut, stack.count, stack.spacing, limits, stack.note, slices)
