"""Where the voxels of a volume lie, and how it is cut into slices.

Coordinates are those of DICOM and ITK: x grows to the patient's left, y to the back, z to the
head, all in mm. Arrays are indexed [k, j, i], the order in which files store voxels.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from medxlate.base.errors import ImageError

Plane = Literal["axial", "coronal", "sagittal"]
PLANES: tuple[Plane, ...] = ("axial", "coronal", "sagittal")
Scalar = TypeVar("Scalar", bound=np.generic)

# For each plane the patient axis (0 x, 1 y, 2 z) and its direction along slices, rows and columns:
# axial slices from the feet up, shown with the front on top and the patient's right on the left;
# the other planes with the head on top.
VIEWS: dict[Plane, tuple[tuple[int, int], tuple[int, int], tuple[int, int]]] = {
    "axial": ((2, 1), (1, 1), (0, 1)),
    "coronal": ((1, 1), (2, -1), (0, 1)),
    "sagittal": ((0, 1), (2, -1), (1, 1)),
}
SHEAR = 1e-3  # how far from orthonormal a direction matrix may be
MIN_SPACING, MAX_SPACING = 1e-4, 1e4  # mm; no scanner, microscope or detector lies beyond
MAX_POSITION = 1e7  # mm, along each patient axis


@dataclass(frozen=True)
class Geometry:
    """The grid of a volume.

    Attributes:
        size: Voxels along i, j and k.
        spacing: Distance between voxels along i, j and k, mm.
        origin: Centre of voxel (0, 0, 0), mm.
        direction: 3x3 row by row; column a is the unit vector along index axis a.
    """

    size: tuple[int, int, int]
    spacing: tuple[float, float, float]
    origin: tuple[float, float, float]
    direction: tuple[float, ...]

    def axes(self) -> npt.NDArray[np.float64]:
        """Return the direction matrix [3, 3]; column a belongs to index axis a."""
        return np.array(self.direction, dtype=np.float64).reshape(3, 3)

    def check(self) -> None:
        """Raise ImageError unless this is a grid of right angles that a scanner can produce.

        Spacings lie within 0.0001 and 10,000 mm, the origin within 10 km along each axis.
        """
        axes = self.axes()
        if not (np.isfinite(axes).all() and np.isfinite([*self.spacing, *self.origin]).all()):
            raise ImageError("its geometry contains values that are not finite")
        if min(self.spacing) <= 0:
            raise ImageError(f"its voxel spacing {self.spacing} is not positive")
        if not all(map(is_spacing, self.spacing)):
            shown = " x ".join(f"{side:g}" for side in self.spacing)
            raise ImageError(
                f"its voxel spacing is {shown} mm; {MIN_SPACING:g} to {MAX_SPACING:g} mm are read"
            )
        if max(map(abs, self.origin)) > MAX_POSITION:
            raise ImageError("its geometry is impossible: the origin lies more than 10 km away")
        if np.abs(axes.T @ axes - np.eye(3)).max() > SHEAR:
            raise ImageError(
                "its axes are sheared: they are not at right angles",
                "Resample it to an orthogonal grid first.",
            )


@dataclass(frozen=True)
class Cut:
    """How an array [k, j, i] becomes slices [n, height, width] in canonical orientation.

    Attributes:
        axes: The array's axis that runs along slices, rows and columns.
        flips: Whether each of the three is turned round.
        spacing: Distance between slices, rows and columns, mm.
        shape: How many slices, rows and columns.
    """

    axes: tuple[int, int, int]
    flips: tuple[bool, bool, bool]
    spacing: tuple[float, float, float]
    shape: tuple[int, int, int]

    def apply(self, volume: npt.NDArray[Scalar]) -> npt.NDArray[Scalar]:
        """Return a view [n, height, width] of an array [k, j, i]."""
        return self._flip(volume.transpose(self.axes))

    def undo(self, slices: npt.NDArray[Scalar]) -> npt.NDArray[Scalar]:
        """Return a view [k, j, i] of an array [n, height, width]."""
        back = [self.axes.index(axis) for axis in range(3)]
        return self._flip(slices).transpose(back)

    @property
    def as_stored(self) -> bool:
        """Whether the slices lie in the plane in which the volume is stored (along k)."""
        return self.axes[0] == 0

    def _flip(self, array: npt.NDArray[Scalar]) -> npt.NDArray[Scalar]:
        steps: tuple[Any, ...] = tuple(slice(None, None, -1 if turn else 1) for turn in self.flips)
        turned: npt.NDArray[Scalar] = array[steps]
        return turned


def is_spacing(side: float) -> bool:
    """Whether a distance of voxels in mm is one that occurs."""
    return MIN_SPACING <= side <= MAX_SPACING


def cut_along(geometry: Geometry, plane: Plane) -> Cut:
    """Return the cut of a volume along a plane; oblique axes count as the nearest patient axis."""
    patient, signs = patient_axes(geometry)
    axes, flips, spacing, shape = [], [], [], []
    for axis, sign in VIEWS[plane]:
        index = patient.index(axis)  # index axis 0 i, 1 j, 2 k
        axes.append(2 - index)
        flips.append(signs[index] != sign)
        spacing.append(geometry.spacing[index])
        shape.append(geometry.size[index])
    return Cut(_three(axes), _three(flips), _three(spacing), _three(shape))


def plane_of(geometry: Geometry) -> Plane:
    """Return the plane in which the volume is stored: the one across its axis k."""
    patient, _ = patient_axes(geometry)
    return next(plane for plane in PLANES if VIEWS[plane][0][0] == patient[2])


def patient_axes(geometry: Geometry) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Return for index axes i, j, k the nearest patient axis (0 x, 1 y, 2 z) and its sign."""
    axes = geometry.axes()
    best = max(
        permutations(range(3)),
        key=lambda order: round(sum(abs(axes[order[index], index]) for index in range(3)), 6),
    )
    signs = [1 if axes[best[index], index] >= 0 else -1 for index in range(3)]
    return _three(list(best)), _three(signs)


def _three(values: list[Any]) -> tuple[Any, Any, Any]:
    return values[0], values[1], values[2]
