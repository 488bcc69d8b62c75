"""Translated slices on disk, in the format of what they were translated from, and their record."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medxlate._version import __version__
from medxlate.images.find import SUFFIXES, image_suffix
from medxlate.images.orientation import Cut
from medxlate.images.pseudonym import Phi, clean_path
from medxlate.images.recipes import Recipe
from medxlate.images.scan import RASTER_FORMATS, Scan
from medxlate.images.stack import FloatArray
from medxlate.images.write import write_synthetic
from medxlate.inference.inputs import Input
from medxlate.inference.names import Key, clean_names

SCHEMA_VERSION = 2


@dataclass(frozen=True)
class Made:
    """How the images were made.

    Attributes:
        source: Name of the modality they were translated from.
        target: Name of the modality they were translated to.
        recipe: The target's recipe.
        generator: SHA-256 of the generator's weights.
        model: Where the model was downloaded from, ``hf://OWNER/NAME@COMMIT``; "" for any other.
        phi: Policy for the patient's attributes in DICOM.
        key: The secret of pseudonyms.
        run: What tells this translation from others, for the UIDs of derived DICOM.
        when: When it was begun.
    """

    source: str
    target: str
    recipe: Recipe
    generator: str
    model: str
    phi: Phi
    key: bytes
    run: str
    when: datetime


class Outputs:
    """Writes slices as they come; volumes once their last slice is there.

    Args:
        folder: Where to write.
        names: The output's path below it, by input file and frame.
        made: How the images were made.
    """

    def __init__(self, folder: Path, names: Mapping[Key, str], made: Made) -> None:
        self._written: dict[Key, str] = {}
        self._slices = 0
        self._folder = folder
        self._names = names
        self._made = made
        self._series: _Series | None = None
        self._volume: _Volume | None = None

    def put(self, item: Input, network: FloatArray) -> None:
        """Take the translation of a slice.

        Args:
            item: The slice.
            network: float32 [H, W] in [-1, 1], of the slice's original size.

        Raises:
            ImageError: The source, whose header is needed again, cannot be read any more.
        """
        scan, cut = item.scan, item.opened.cut
        if scan.format in RASTER_FORMATS:
            self._write_raster(scan, network)
        elif scan.format == "dicom" and (cut is None or cut.as_stored):
            stored = network if cut is None else _in_plane(cut, network)
            values = self._made.recipe.physical(stored)
            self._write_frame(scan, item.slice.stored_number, values)
        else:
            self._gather(item, network)

    def taken(self) -> tuple[dict[Key, str], int]:
        """Return what was written since the last call; discard scans that are not complete.

        Returns:
            The name of each output, by its input's file and frame; how many slices they hold.
        """
        written, slices = self._written, self._slices
        self._written, self._slices = {}, 0
        self._series = self._volume = None
        return written, slices

    def _write_raster(self, scan: Scan, network: FloatArray) -> None:
        key = (scan.files[0].relative, 0)
        facts = {
            "from": self._made.source,
            "to": self._made.target,
            "generator": self._made.generator,
        }
        path = self._folder / self._names[key]
        write_synthetic(path, network, recipe=self._made.recipe, facts=facts)
        self._done(key, 1)

    def _gather(self, item: Input, network: FloatArray) -> None:
        if self._volume is None or self._volume.scan is not item.scan:
            self._volume = _Volume.of(item, self._made.recipe)
        self._volume.put(item.slice.number, self._made.recipe.physical(network))
        if self._volume.missing == 0:
            volume, self._volume = self._volume, None
            self._write_volume(volume)

    def _write_volume(self, volume: _Volume) -> None:
        scan, voxels = volume.scan, volume.cut.undo(volume.slices)
        if scan.format == "dicom":
            for number in range(len(scan.frames)):
                self._write_frame(scan, number, voxels[number])
            return
        from medxlate.images.volumes import write_volume  # SimpleITK only where it is needed

        key = (scan.files[0].relative, 0)
        path = self._folder / self._names[key]
        assert scan.geometry is not None
        made = self._made
        facts = {
            "description": mark(made.source, made.target),
            "synthetic": True,
            "generator": made.generator,
            "unit": made.recipe.unit,
        }
        write_volume(path, voxels, scan.geometry, facts=facts, xform=scan.xform)
        self._done(key, len(volume.slices))

    def _write_frame(self, scan: Scan, number: int, values: npt.NDArray[Any]) -> None:
        if self._series is None or self._series.scan is not scan:
            self._series = _Series(scan, self._made)
        frame = scan.frames[number]
        key = (frame.file.relative, frame.number)
        self._series.write(self._folder / self._names[key], number, values)
        self._done(key, 1)

    def _done(self, key: Key, slices: int) -> None:
        self._written[key] = self._names[key]
        self._slices += slices


def mark(source: str, target: str) -> str:
    """Return what an image says of itself, in one line."""
    return f"SYNTHETIC {target} from {source}, medxlate {__version__}"


def record(
    made: Made,
    written: Iterable[tuple[str, int, str]],
    failed: Mapping[str, str],
    scans: Sequence[Scan],
    patients: Mapping[str, str],
) -> dict[str, Any]:
    """Return the content of translation.json; names follow the policy, as those of files do.

    Args:
        made: How the images were made.
        written: Input file, frame (from 0) and output of each file.
        failed: What could not be translated, and why.
        scans: The inputs.
        patients: See ``names.patients_of``.
    """
    clean: dict[str, str] = {}
    for scan in scans:
        for file, _, relative in clean_names(scan, patients[scan.name], made.phi):
            clean[file.relative] = relative
        folder = clean_path(scan.name, scan.identifiers, patients[scan.name], made.phi)
        clean.setdefault(scan.name, folder)
    others = {scan.name for scan in scans if not scan.frames}
    listed: dict[str, str] = {}
    for number, (name, reason) in enumerate(failed.items(), start=1):
        if made.phi == "keep" or name in others or _is_no_dicom(name):
            listed[name] = reason
        else:  # nothing is known of a DICOM file that failed: neither name nor details get out
            listed[f"file {number}"] = reason.partition(":")[0]
    return {
        "schema_version": SCHEMA_VERSION,
        "synthetic": True,
        "note": "Images made by a neural network. Not for diagnosis.",
        "medxlate": __version__,
        "source": made.source,
        "target": made.target,
        "unit": made.recipe.unit,
        "phi": made.phi,
        "generator_sha256": made.generator,
        **({"model": made.model} if made.model else {}),
        "files": [
            {"input": clean[file], "frame": frame + 1, "output": name}
            for file, frame, name in written
        ],
        "failed": listed,
    }


def _is_no_dicom(name: str) -> bool:
    return SUFFIXES.get(image_suffix(name).lower(), "dicom") != "dicom"


class _Series:
    """A derived DICOM series that is being written."""

    def __init__(self, scan: Scan, made: Made) -> None:
        from medxlate.images.dicom.derive import Derivation, SeriesWriter
        from medxlate.images.dicom.rescale import rescale_for

        self.scan = scan
        self._recipe = made.recipe
        self._writer = SeriesWriter(
            scan,
            Derivation(
                target=made.target,
                source=made.source,
                generator=made.generator,
                phi=made.phi,
                key=made.key,
                run=made.run,
                when=made.when,
            ),
        )
        low, high = made.recipe.output_range
        self._rescale = rescale_for(self._writer.modality, made.recipe.unit, low, high)

    def write(self, path: Path, number: int, values: npt.NDArray[Any]) -> None:
        """Write one slice of physical values [rows, columns]."""
        low, high = self._recipe.output_range
        self._writer.write_slice(
            path,
            number,
            self._rescale.store(values),
            slope=self._rescale.slope,
            intercept=self._rescale.intercept,
            unit=self._recipe.unit,
            window=((low + high) / 2, high - low),
        )


@dataclass
class _Volume:
    """A volume that is being gathered slice by slice; int16 for HU, else float32."""

    scan: Scan
    cut: Cut
    slices: npt.NDArray[Any]
    missing: int

    @classmethod
    def of(cls, item: Input, recipe: Recipe) -> _Volume:
        cut = item.opened.cut
        assert cut is not None
        dtype = np.int16 if recipe.unit == "HU" else np.float32
        return cls(item.scan, cut, np.empty(cut.shape, dtype), item.opened.count)

    def put(self, number: int, values: FloatArray) -> None:
        whole = self.slices.dtype.kind == "i"
        self.slices[number] = np.clip(np.rint(values), -32768, 32767) if whole else values
        self.missing -= 1


def _in_plane(cut: Cut, network: FloatArray) -> FloatArray:
    """Turn a slice back to the rows and columns in which its series is stored."""
    flat = replace(cut, flips=(False, *cut.flips[1:]))
    turned: FloatArray = flat.undo(network[np.newaxis])[0]
    return turned
