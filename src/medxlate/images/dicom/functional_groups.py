"""Where each frame lies and how its values scale, of single-frame and multi-frame files."""

from __future__ import annotations

import numpy as np

from medxlate.base.errors import ImageError
from medxlate.images.dicom.parse import Elements
from medxlate.images.orientation import MAX_POSITION, is_spacing

ORTHONORMAL = 1e-3  # how far from it the directions of rows and columns may be


class FunctionalGroups:
    """Attributes of each frame: of multi-frame functional groups (PS3.3 C.7.6.16) or of the file.

    A classic multi-frame file says nothing about the place of each frame.
    """

    def __init__(self, values: Elements, count: int) -> None:
        self.values = values
        self.shared = values.items("SharedFunctionalGroupsSequence")[:1]
        self.each = values.items("PerFrameFunctionalGroupsSequence")
        self.classic = count > 1 and not self.each
        if self.each and len(self.each) < count:
            raise ImageError(f"only {len(self.each)} of its {count} frames are described")

    def find(self, number: int, macro: str, keyword: str) -> Elements:
        """Return the elements that hold an attribute of a frame."""
        for group in (*self.each[number : number + 1], *self.shared):
            for item in group.items(macro):
                if keyword in item:
                    return item
        return self.values

    def orientation(self, number: int) -> tuple[float, ...] | None:
        """Return ImageOrientationPatient; None where it is absent or not two directions."""
        keyword = "ImageOrientationPatient"
        cosines = self.find(number, "PlaneOrientationSequence", keyword).numbers(keyword, 6)
        if self.classic or cosines is None:
            return None
        row, column = np.array(cosines[:3]), np.array(cosines[3:])
        errors = (row @ row - 1, column @ column - 1, row @ column)
        return cosines if max(map(abs, errors)) <= ORTHONORMAL else None

    def position(self, number: int) -> tuple[float, float, float] | None:
        """Return ImagePositionPatient, mm, or None where it is absent or beyond 10 km."""
        keyword = "ImagePositionPatient"
        found = self.find(number, "PlanePositionSequence", keyword).numbers(keyword, 3)
        if self.classic or found is None or max(map(abs, found)) > MAX_POSITION:
            return None
        return found[0], found[1], found[2]

    def spacing(self, number: int) -> tuple[float, float] | None:
        """Return the distance of rows and of columns, mm; at the detector for projections.

        A distance that does not occur (see ``is_spacing``) counts as absent.
        """
        measures = self.find(number, "PixelMeasuresSequence", "PixelSpacing")
        for keyword in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"):
            found = measures.numbers(keyword, 2)
            if found and all(map(is_spacing, found)):
                return found[0], found[1]
        return None

    def thickness(self) -> float:
        """Return SliceThickness of the first frame, mm, or 0 where it is absent or impossible."""
        keyword = "SliceThickness"
        found = self.find(0, "PixelMeasuresSequence", keyword).number(keyword)
        return found if found is not None and is_spacing(found) else 0.0

    def transformation(self, number: int) -> Elements:
        """Return the elements that hold slope, intercept and type of the rescale."""
        return self.find(number, "PixelValueTransformationSequence", "RescaleSlope")
