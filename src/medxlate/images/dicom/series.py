"""Which DICOM slices belong together, and in which order."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from medxlate.images.dicom.copies import OTHER_PIXELS, divide_copies
from medxlate.images.orientation import Geometry, is_spacing, plane_of
from medxlate.images.scan import FoundImage, Frame, Scan, add_note

if TYPE_CHECKING:
    from medxlate.images.dicom.header import Header

Vector = npt.NDArray[np.float64]

SAME_DIRECTION = 1e-3  # of the cosines: 0.06 degrees
SAME_SPACING = 1e-3  # relative
SAME_PLACE = 0.01  # of the pixels' distance
ROUNDED = 0.01  # mm: positions are decimal text, often with two digits
UNEVEN = 0.01  # of the slices' distance
DRIFT = 1e-3  # sideways, of the distance from the first slice
MISSING = 0.1  # how near to a whole multiple of the usual distance a gap must be
ACQUISITIONS = "its series contains several acquisitions (AcquisitionNumber)"
SHARED_UID = "its SeriesInstanceUID also occurs in other patients' files: they are kept apart"


@dataclass(frozen=True)
class Grouped:
    """The scans found in a set of files.

    Attributes:
        scans: Sorted by name.
        skipped: Relative path of a file of which no slice is used, and why.
        notes: Relative path of a file that is used, and what a user should know about it.
    """

    scans: list[Scan]
    skipped: dict[str, str]
    notes: dict[str, str]


@dataclass(frozen=True, slots=True)
class _PlacedFrame:
    """A frame with the header of its file."""

    header: Header
    frame: Frame

    @property
    def acquired(self) -> tuple[tuple[int, int], str]:
        return self.frame.order, self.frame.file.relative

    @property
    def has_place(self) -> bool:
        frame = self.frame
        return None not in (frame.orientation, frame.position, frame.spacing)


def group_series(headers: Iterable[Header]) -> Grouped:
    """Put the slices of each series together, in order along their normal.

    Slices are grouped by patient and SeriesInstanceUID; a file without the UID, or without a
    place in space, is a scan of its own. One UID in files of several patients is noted. The
    position along the normal, the cross product of the directions of rows and columns
    (PS3.3 C.7.6.2.1.1), decides the order, not InstanceNumber. Copies, localizers, slices of
    another orientation, size or spacing, and further slices at a position are left out. A file
    with the SOPInstanceUID of another one but other pixels is not a copy (see
    ``divide_copies``): it is noted, or left out where it lies at the other's position.
    The result does not depend on the order of the headers.
    """
    found = sorted(headers, key=lambda header: header.file.relative)
    series: dict[tuple[str, str], list[Header]] = defaultdict(list)
    patients: dict[str, set[str]] = defaultdict(set)
    for header in found:
        uid = header.series or f"file:{header.file.relative}"
        series[uid, header.patient].append(header)
        patients[uid].add(header.patient)
    reasons: dict[str, list[str]] = defaultdict(list)
    notes: dict[str, str] = {}
    scans: list[Scan] = []
    for (uid, _), members in series.items():
        made = _scans(members, reasons, notes)
        scans += made
        if len(patients[uid]) > 1:
            for scan in made:
                add_note(notes, scan.files[0].relative, SHARED_UID)
    scans = _named(scans)
    used = {file.relative for scan in scans for file in scan.files}
    skipped = {name: texts[0] for name, texts in reasons.items() if name not in used}
    for name in reasons.keys() & used:
        texts = reasons[name]
        add_note(notes, name, f"{len(texts)} of its frames were left out: {texts[0]}")
    return Grouped(sorted(scans, key=lambda scan: scan.name), dict(sorted(skipped.items())), notes)


def _scans(
    members: list[Header], reasons: dict[str, list[str]], notes: dict[str, str]
) -> list[Scan]:
    """Return the scans of one series."""
    slices: list[_PlacedFrame] = []
    scans: list[Scan] = []
    copies, conflicts = divide_copies(members)
    for header in members:
        if header.file.relative in copies:
            original = copies[header.file.relative]
            reasons[header.file.relative].append(f"a copy of another file: {original}")
            continue
        placed = [_PlacedFrame(header, frame) for frame in header.frames]
        if header.localizer:
            reasons[header.file.relative].append("a localizer")
        elif all(item.has_place for item in placed):
            slices += placed
        else:
            scans.append(_scan(placed, None, ""))
    if slices:
        stacked = _one_per_position(_largest(slices, reasons), reasons)
        scans.append(_stack(stacked, notes))
        if len({item.header.acquisition for item in stacked}) > 1:
            add_note(notes, stacked[0].frame.file.relative, ACQUISITIONS)
    used = {file.relative for scan in scans for file in scan.files}
    for name, other in conflicts.items():
        if name in used:
            add_note(notes, name, f"{OTHER_PIXELS}: {other}")
        else:
            reasons[name].insert(0, f"{OTHER_PIXELS}: {other}")
            add_note(notes, other, OTHER_PIXELS)
    return scans


def _largest(slices: list[_PlacedFrame], reasons: dict[str, list[str]]) -> list[_PlacedFrame]:
    """Return the largest set of slices that are alike; where two are, the one acquired first."""
    groups: list[list[_PlacedFrame]] = []
    for item in sorted(slices, key=lambda item: item.acquired):
        for group in groups:
            if not _difference(item, group[0]):
                group.append(item)
                break
        else:
            groups.append([item])
    largest = max(groups, key=len)
    for group in groups:
        if group is not largest:
            for item in group:
                reason = _difference(item, largest[0])
                reasons[item.frame.file.relative].append(reason)
    return largest


def _difference(item: _PlacedFrame, series: _PlacedFrame) -> str:
    """Return what distinguishes a slice from those of its series, "" for nothing."""
    one, other = item.frame, series.frame
    if not _near(one.orientation, other.orientation, SAME_DIRECTION):
        planes = _plane(one), _plane(other)
        if planes[0] != planes[1]:
            return f"{planes[0]}, the series is {planes[1]}"
        return f"{planes[0]} in another direction than the series"
    if (one.rows, one.columns) != (other.rows, other.columns):
        return f"{one.columns}x{one.rows}, the series is {other.columns}x{other.rows}"
    if not _near(one.spacing, other.spacing, SAME_SPACING * min(other.spacing or (0.0,))):
        shown = ("x".join(f"{side:g}" for side in frame.spacing or ()) for frame in (one, other))
        return "pixel spacing {} mm, the series has {} mm".format(*shown)
    if item.header.modality != series.header.modality:
        return f"{item.header.modality or 'no modality'}, the series is {series.header.modality}"
    if item.header.unit != series.header.unit:
        return f"{item.header.unit or 'no unit'}, the series is in {series.header.unit or 'none'}"
    return ""


def _near(one: Sequence[float] | None, other: Sequence[float] | None, tolerance: float) -> bool:
    if one is None or other is None or one == other:
        return one == other
    return max(abs(a - b) for a, b in zip(one, other, strict=True)) <= tolerance


def _one_per_position(
    slices: list[_PlacedFrame], reasons: dict[str, list[str]]
) -> list[_PlacedFrame]:
    """Return one slice at each position, in order along the normal: the one acquired first."""
    heights = _positions(slices) @ _axes(slices[0].frame)[:, 2]
    tolerance = SAME_PLACE * min(slices[0].frame.spacing or (1.0,))
    places: list[list[_PlacedFrame]] = []
    lowest = 0.0
    for index in np.argsort(heights, kind="stable"):
        if places and heights[index] - lowest <= tolerance:
            places[-1].append(slices[index])
        else:
            places.append([slices[index]])
            lowest = heights[index]
    kept = []
    for place in places:
        first = min(place, key=lambda item: item.acquired)
        kept.append(first)
        reason = f"at the position of another slice: {first.frame.file.relative}"
        for item in place:
            if item is not first:
                reasons[item.frame.file.relative].append(reason)
    return kept


def _stack(slices: list[_PlacedFrame], notes: dict[str, str]) -> Scan:
    """Return the scan of slices in order along their normal."""
    first = slices[0].frame
    axes = _axes(first)
    places = _positions(slices)
    places -= places[0]
    steps = np.diff(places @ axes[:, 2])
    distance, problem = slices[0].header.thickness or 1.0, ""
    if len(steps):
        problem = _irregular(steps, slices, notes) or _sideways(places, axes)
        usual = float(np.median(steps))
        distance = usual if problem else float(steps.mean())
        if not problem and not is_spacing(distance):
            problem = f"its slices are {distance:.4g} mm apart"
    rows, columns = first.spacing or (1.0, 1.0)
    geometry = Geometry(
        size=(first.columns, first.rows, len(slices)),
        spacing=(columns, rows, distance),
        origin=first.position or (0.0, 0.0, 0.0),
        direction=tuple(float(value) for value in axes.ravel()),
    )
    return _scan(slices, geometry, problem)


def _irregular(
    steps: npt.NDArray[np.float64], slices: list[_PlacedFrame], notes: dict[str, str]
) -> str:
    """Return why slices at these distances are not a volume; note after which file slices miss."""
    usual = float(np.sort(steps)[(len(steps) - 1) // 2])
    missing = 0
    after = ""
    uneven = False
    for step, item in zip(steps, slices, strict=False):
        if abs(step - usual) <= ROUNDED + UNEVEN * usual:
            continue
        gap = round(step / usual)
        if gap < 2 or abs(step / usual - gap) > MISSING:
            uneven = True
            continue
        name = item.frame.file.relative
        after = after or name
        missing += gap - 1
        add_note(notes, name, f"{_slices(gap - 1)} missing after it")
    if missing:
        return f"{_slices(missing)} missing, the first after {after}"
    if uneven:
        return f"its slices are {steps.min():.4g} to {steps.max():.4g} mm apart"
    return ""


def _slices(count: int) -> str:
    return "a slice is" if count == 1 else f"{count} slices are"


def _sideways(places: Vector, axes: Vector) -> str:
    """Return why slices do not lie on top of each other, as with a tilted gantry."""
    drift = np.abs(places @ axes[:, :2]).max(axis=1)
    if (drift <= ROUNDED + DRIFT * np.abs(places @ axes[:, 2])).all():
        return ""
    return f"its slices drift sideways by {drift.max():.4g} mm (a tilted gantry)"


def _scan(slices: Sequence[_PlacedFrame], geometry: Geometry | None, problem: str) -> Scan:
    header = min(slices, key=lambda item: item.acquired).header
    factors = {item.frame.suv for item in slices}
    frames = tuple(item.frame for item in slices)
    no_suv = next((item.header.no_suv for item in slices if item.header.no_suv), "")
    if len(factors) > 1:
        frames = _with_one_suv(frames)
    files: dict[str, FoundImage] = {frame.file.relative: frame.file for frame in frames}
    return Scan(
        name="",
        format="dicom",
        files=tuple(files.values()),
        unit=header.unit,
        full_range=_full_range(slices),
        modality=header.modality,
        geometry=geometry,
        frames=frames,
        not_a_volume=problem,
        no_suv=no_suv,
    )


def _full_range(slices: Sequence[_PlacedFrame]) -> tuple[float, float]:
    """Return what the slices' stored types can hold; their slopes may differ."""
    ranges = [item.header.full_range for item in slices]
    return min(low for low, _ in ranges), max(high for _, high in ranges)


def _with_one_suv(frames: tuple[Frame, ...]) -> tuple[Frame, ...]:
    """Give all slices the factor that belongs to the earliest time of the series.

    The activity of a whole series is corrected to one time. Where SeriesTime was changed later to
    one amid the acquisition, the slices acquired after it show a later time than the others, and
    so a larger factor (less activity is left).
    """
    factors = [frame.suv for frame in frames]
    known = [factor for factor in factors if factor is not None]
    chosen = min(known) if len(known) == len(factors) else None
    return tuple(replace(frame, suv=chosen) for frame in frames)


def _named(scans: list[Scan]) -> list[Scan]:
    """Name scans by their folder where it holds one series, by their first file otherwise."""
    folders: dict[str, int] = defaultdict(int)
    for scan in scans:
        if len(scan.files) > 1:
            folders[_folder(scan)] += 1
    named = []
    for scan in scans:
        name = _folder(scan) if len(scan.files) > 1 else ""
        if not name or folders[name] > 1:
            name = min(file.relative for file in scan.files)
        named.append(replace(scan, name=name))
    return named


def _folder(scan: Scan) -> str:
    """Return the innermost folder that holds all files, "" for the one that was searched."""
    parents = [PurePosixPath(file.relative).parent.parts for file in scan.files]
    common = []
    for parts in zip(*parents, strict=False):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    return "/".join(common)


def _axes(frame: Frame) -> Vector:
    """Return the directions along a row, down a column and of the normal, as columns [3, 3]."""
    cosines = np.array(frame.orientation, dtype=np.float64)
    normal = np.cross(cosines[:3], cosines[3:])
    return np.stack([cosines[:3], cosines[3:], normal / np.linalg.norm(normal)], axis=1)


def _positions(slices: Sequence[_PlacedFrame]) -> Vector:
    return np.array([item.frame.position for item in slices], dtype=np.float64)


def _plane(frame: Frame) -> str:
    direction = tuple(float(value) for value in _axes(frame).ravel())
    return plane_of(Geometry((1, 1, 1), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), direction))
