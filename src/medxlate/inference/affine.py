"""Volumes as MONAI, TorchIO and nibabel hold them: an array [X, Y, Z] and an affine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from medxlate.base.errors import ImageError, UsageError
from medxlate.images.orientation import Geometry, Plane, cut_along
from medxlate.images.stack import FloatArray
from medxlate.inference.in_memory import Spacing

Grid = npt.NDArray[Any]
Translate = Callable[[Grid, Spacing], FloatArray]  # of slices [slices, H, W]
TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def translate_grid(
    grid: Grid, affine: npt.ArrayLike, plane: Plane, translate: Translate, *, lps: bool = False
) -> FloatArray:
    """Translate an array that an affine places in the patient, slice by slice.

    Args:
        grid: [X, Y, Z]; or [X, Y], a single image whose second axis runs along its rows.
        affine: [4, 4], from indices to mm.
        plane: The plane along which volumes are cut.
        translate: Takes slices in the plane's orientation [slices, H, W] and their spacing.
        lps: Whether the affine's axes point left and back, as DICOM's and ITK's do, and not right
            and front, as those of NIfTI, MONAI and TorchIO.

    Returns:
        float32 of the array's own shape.

    Raises:
        UsageError: The array has another number of dimensions.
        ImageError: The affine is not that of a grid of right angles.
    """
    if grid.ndim == 2:
        columns = np.asarray(affine, dtype=np.float64)[:3, :2]
        across, down = np.linalg.norm(columns, axis=0)
        return translate(grid.T, (1.0, float(down), float(across))).T
    if grid.ndim != 3:
        raise UsageError(f"An array of the shape {grid.shape} is neither an image nor a volume.")
    cut = cut_along(geometry_of(grid.shape, affine, lps=lps), plane)
    slices = translate(cut.apply(grid.transpose(2, 1, 0)), cut.spacing)
    return cut.undo(slices).transpose(2, 1, 0)


def geometry_of(shape: tuple[int, ...], affine: npt.ArrayLike, *, lps: bool = False) -> Geometry:
    """Return where the voxels of a volume lie.

    Args:
        shape: Voxels along X, Y and Z.
        affine: As for ``translate_grid``.
        lps: Likewise.

    Raises:
        ImageError: The affine is not that of a grid of right angles.
    """
    matrix = np.asarray(affine, dtype=np.float64)
    if matrix.shape != (4, 4):
        raise ImageError(f"its affine has the shape {matrix.shape}, not (4, 4)")
    matrix = matrix if lps else TO_LPS @ matrix
    columns = matrix[:3, :3]
    lengths = np.linalg.norm(columns, axis=0)
    with np.errstate(all="ignore"):  # a length of 0 is refused by the check
        axes = columns / lengths
    geometry = Geometry(
        size=(shape[0], shape[1], shape[2]),
        spacing=(float(lengths[0]), float(lengths[1]), float(lengths[2])),
        origin=(float(matrix[0, 3]), float(matrix[1, 3]), float(matrix[2, 3])),
        direction=tuple(axes.ravel().tolist()),
    )
    geometry.check()
    return geometry
