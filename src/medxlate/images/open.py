"""One way in: any scan becomes slices, cut and oriented as its recipe says.

``open_slices`` gives them as the squares of integers that every command goes on with;
``open_stack``, below it, gives physical values in the scan's own size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from medxlate.base.errors import ImageError
from medxlate.base.grey_levels import Stored
from medxlate.images.limits import MIN_SIDE, check_slice_size, check_volume_size
from medxlate.images.orientation import Cut, cut_along, plane_of
from medxlate.images.recipes import Limits, Recipe, is_near_empty
from medxlate.images.scan import RASTER_FORMATS, Scan
from medxlate.images.stack import FloatArray, Stack
from medxlate.images.volumes import read_volume

NEAR_EMPTY = "near-empty: less than 1 % of its pixels are above 5 % of the recipe's range"


@dataclass(frozen=True)
class OpenScan:
    """A scan that is being read.

    Attributes:
        scan: The scan.
        cut: How it is cut; None for an image without a place in space.
        count: How many slices it has.
        spacing: Distance between rows and between columns, mm.
        limits: The physical values of black and white.
        note: What a user should know about how it is read; "" for nothing.
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


def open_slices(scan: Scan, recipe: Recipe, size: int) -> OpenScan:
    """Open a scan to read its slices as squares of integers.

    Args:
        scan: The scan.
        recipe: Its modality's recipe.
        size: Side of the squares, pixels.

    Raises:
        ImageError: It cannot be read with this recipe, as a whole.
    """
    stack = open_stack(scan, recipe)
    limits = recipe.limits(stack)

    def read(number: int) -> Slice:
        which = (number, _stored_number(stack.cut, number), _file_of(scan, stack.cut, number))
        try:
            pixels = stack.read(number)
            lowest = float(np.fmin.reduce(pixels, axis=None))  # NaN counts only where all are
            stored = recipe.store(pixels, size, limits=limits, spacing=stack.spacing)
        except ImageError as problem:
            return Slice(*which, stack.height, stack.width, None, str(problem))
        empty = scan.format not in RASTER_FORMATS and is_near_empty(stored)
        return Slice(*which, stack.height, stack.width, stored, "", empty, lowest)

    slices = (read(number) for number in range(stack.count))
    return OpenScan(scan, stack.cut, stack.count, stack.spacing, limits, stack.note, slices)


def open_stack(scan: Scan, recipe: Recipe) -> Stack:
    """Open a scan for reading, slice by slice.

    Volumes are cut along ``recipe.plane`` in canonical orientation; the slices of a DICOM series
    are read one at a time where they were acquired in that plane, else the volume is held.

    Raises:
        ImageError: The file is damaged, too large, or cannot be read with this recipe.
    """
    if scan.format in RASTER_FORMATS:
        from medxlate.images.raster import read_raster  # tifffile only where it is needed

        return read_raster(scan.files[0].path, channel=recipe.channel)
    stack = _series(scan, recipe) if scan.format == "dicom" else _volume(scan, recipe)
    if recipe.n4 and stack.count > 1:
        from medxlate.images.bias import correct_bias

        return correct_bias(stack, stack.cut.spacing[0] if stack.cut is not None else 1.0)
    return stack


def cut_of(scan: Scan, recipe: Recipe) -> Cut | None:
    """Return how a scan is cut; None for images without a place in space.

    Raises:
        ImageError: Its slices cannot be cut along the recipe's plane.
    """
    if scan.geometry is None:
        return None
    cut = cut_along(scan.geometry, recipe.plane)
    if cut.as_stored:
        return cut
    if scan.not_a_volume or min(cut.shape[1:]) < MIN_SIDE:
        reason = scan.not_a_volume or f"it has {scan.geometry.size[2]} slices"
        raise ImageError(
            f"the slices are {plane_of(scan.geometry)} and cannot be cut along the "
            f"{recipe.plane} plane: {reason}",
            f"Use --plane {plane_of(scan.geometry)} for such scans.",
        )
    return cut


def _series(scan: Scan, recipe: Recipe) -> Stack:
    from medxlate.images.dicom.pixels import read_frame  # pydicom only where it is needed

    factors = [_factor(scan, number, recipe) for number in range(len(scan.frames))]

    def stored(number: int) -> FloatArray:
        pixels = read_frame(scan.frames[number])
        return pixels if factors[number] == 1 else pixels * np.float32(factors[number])

    cut = cut_of(scan, recipe)
    first = scan.frames[0]
    unit = "SUVbw" if recipe.unit == "SUVbw" else scan.unit
    if cut is None:
        check_slice_size(first.rows, first.columns)
        return Stack(
            count=len(scan.frames),
            height=first.rows,
            width=first.columns,
            spacing=first.spacing or (1.0, 1.0),
            unit=unit,
            full_range=scan.full_range,
            read=stored,
        )
    if cut.as_stored:
        in_plane = replace(cut, flips=(False, *cut.flips[1:]))

        def read(number: int) -> FloatArray:
            pixels: FloatArray = in_plane.apply(stored(_stored_number(cut, number))[np.newaxis])[0]
            return pixels

        return _of_cut(cut, scan, unit, read)
    check_volume_size(int(np.prod(cut.shape)), 4)
    whole = np.stack([stored(number) for number in range(len(scan.frames))])
    return _of_array(cut, whole, scan, unit)


def _factor(scan: Scan, number: int, recipe: Recipe) -> float:
    """Return what brings the physical values of a frame to the recipe's unit."""
    if recipe.unit != "SUVbw":
        return 1.0
    suv = scan.frames[number].suv
    if suv is None:
        reason = scan.no_suv or f"the scan is {scan.modality or 'not PET'}"
        raise ImageError(
            f"SUV cannot be computed: {reason}",
            "Use --recipe mr (percentiles) if you do not need SUV.",
        )
    return suv


def _volume(scan: Scan, recipe: Recipe) -> Stack:
    if recipe.unit == "SUVbw":
        raise ImageError(
            "SUV cannot be computed: volume files contain neither dose nor weight",
            "Use --recipe mr (percentiles), or prepare the DICOM series.",
        )
    cut = cut_of(scan, recipe)
    assert cut is not None
    unit = "HU" if recipe.unit == "HU" else scan.unit  # CT volumes are in HU by convention
    return _of_array(cut, read_volume(scan.files[0].path, recipe.volume), scan, unit)


def _of_array(cut: Cut, volume: npt.NDArray[Any], scan: Scan, unit: str) -> Stack:
    slices = cut.apply(volume)

    def read(number: int) -> FloatArray:
        with np.errstate(over="ignore"):  # becomes infinite, and is refused
            pixels: FloatArray = np.array(slices[number], dtype=np.float32, order="C")
        if not scan.frames and not np.isfinite(pixels).all():  # of DICOM, NaN is padding
            raise ImageError("the slice contains values that are not finite")
        return pixels

    return _of_cut(cut, scan, unit, read)


def _of_cut(cut: Cut, scan: Scan, unit: str, read: Callable[[int], FloatArray]) -> Stack:
    count, height, width = cut.shape
    check_slice_size(height, width)
    return Stack(
        count=count,
        height=height,
        width=width,
        spacing=cut.spacing[1:],
        unit=unit,
        full_range=scan.full_range,
        read=read,
        cut=cut,
    )


def _file_of(scan: Scan, cut: Cut | None, number: int) -> str:
    """Return the relative path of the file that holds a slice; the scan's name for cut series."""
    if not scan.frames:
        return scan.files[0].relative
    if cut is not None and not cut.as_stored:
        return scan.name
    return scan.frames[_stored_number(cut, number)].file.relative


def _stored_number(cut: Cut | None, number: int) -> int:
    """Return the number in which a slice of the cut lies in the series, both from 0."""
    return cut.shape[0] - 1 - number if cut is not None and cut.flips[0] else number
