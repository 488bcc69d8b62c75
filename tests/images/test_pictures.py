"""Polarity, types and orientation of PNG, JPEG and TIFF against what was written and pillow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
import tifffile

from conftest import Array, as_is, noise, open_file, read_pixels, save_tiff
from medxlate.base.errors import ImageError
from medxlate.images.raster import stored_bits
from preparing import record, run, write_table

ORIENTATION = 274  # the tag of EXIF and TIFF
UPRIGHT = {  # Exif 2.32, 4.6.4: where row 0 and column 0 of the stored image lie
    1: lambda a: a,  # top, left
    2: np.fliplr,  # top, right
    3: lambda a: np.rot90(a, 2),  # bottom, right
    4: np.flipud,  # bottom, left
    5: lambda a: a.T,  # left, top
    6: lambda a: np.rot90(a, -1),  # right, top
    7: lambda a: np.rot90(a.T, 2),  # right, bottom
    8: np.rot90,  # left, bottom
}


def example(kind: str, *, seed: int = 0) -> Array:
    """Return [40, 48] of a type's whole range; of 32-bit integers, of what float32 can hold."""
    random = np.random.default_rng(seed)
    dtype = np.dtype(kind)
    if dtype.kind == "b":
        return random.random((40, 48)) > 0.5
    if dtype.kind == "f":
        return random.normal(size=(40, 48)).astype(dtype)
    info = np.iinfo(dtype)
    most = 1 << 24
    low, high = max(info.min, -most), min(info.max, most)
    return random.integers(low, high, (40, 48), endpoint=True).astype(dtype)


def meant(stored: Array, photometric: str) -> Array:
    """Return what an image shows, large values bright."""
    if stored.dtype.kind == "b":
        return np.where(stored == (photometric == "minisblack"), 255, 0)
    if photometric == "minisblack":
        return stored
    if stored.dtype.kind == "f" or stored.itemsize > 2:
        return stored.max() - stored.astype(np.float64) + stored.min()
    info = np.iinfo(stored.dtype)
    return info.max - stored.astype(np.int64) + info.min


@pytest.mark.parametrize("packing", [None, "zlib"])
@pytest.mark.parametrize("tile", [None, (16, 16)])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
@pytest.mark.parametrize("kind", ["?", "u1", "i1", "u2", "i2", "u4", "i4", "f2", "f4"])
def test_grey_tiff_of_every_type(
    tmp_path: Path, kind: str, photometric: str, order: str, tile: Any, packing: Any
) -> None:
    stored = example(kind)
    options = {"photometric": photometric, "byteorder": order, "tile": tile, "compression": packing}
    image = open_file(save_tiff(tmp_path / "a.tif", stored, **options))[1]
    truth = meant(stored, photometric)
    np.testing.assert_allclose(image.read(0), truth, rtol=1e-6, atol=1e-6)
    low, high = image.full_range
    assert low <= truth.min() <= truth.max() <= high
    if stored.itemsize <= 2 and kind not in "?f2":
        assert image.full_range == (np.iinfo(stored.dtype).min, np.iinfo(stored.dtype).max)


@pytest.mark.parametrize("kind", ["L", "1", "I;16", "F"])
@pytest.mark.parametrize("packing", ["tiff_lzw", "packbits"])
def test_grey_tiff_in_packings_that_only_pillow_knows(
    tmp_path: Path, kind: str, packing: str
) -> None:
    stored = example({"L": "u1", "1": "?", "I;16": "u2", "F": "f4"}[kind])
    PIL.Image.fromarray(stored).save(tmp_path / "a.tif", compression=packing)
    truth = meant(stored, "minisblack")
    np.testing.assert_array_equal(read_pixels(tmp_path / "a.tif"), truth)


@pytest.mark.parametrize("kind", ["u4", "i4"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_integers_that_would_lose_digits_are_refused(tmp_path: Path, kind: str, order: str) -> None:
    stored = example(kind)
    stored[3, 4] = (1 << 24) + 1
    path = save_tiff(tmp_path / "a.tif", stored, byteorder=order)
    with pytest.raises(ImageError, match=r"int32 values beyond 16,777,216"):
        open_file(path)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", ["u1", "u2"])
@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("channels", [3, 4, 5])
def test_channels_of_tiff(
    tmp_path: Path, channels: int, planar: str, kind: str, order: str
) -> None:
    pixels = noise(40, 48, channels, dtype=np.dtype(kind))
    saved = pixels if planar == "contig" else np.moveaxis(pixels, 2, 0)
    colour = "minisblack" if channels == 5 else "rgb"
    options = {"photometric": colour, "planarconfig": planar, "byteorder": order}
    path = save_tiff(tmp_path / "a.tif", saved, **options)
    for channel in range(3):
        truth = pixels[:, :, channel]
        np.testing.assert_array_equal(read_pixels(path, channel=channel), truth)


@pytest.mark.parametrize("bits", [8, 16])
def test_palettes_of_tiff_are_their_colours(tmp_path: Path, bits: int) -> None:
    numbers = noise(40, 48, dtype=np.dtype(f"u{bits // 8}"))
    colours = noise(3, 1 << bits, seed=1, dtype=np.uint16)
    path = save_tiff(tmp_path / "a.tif", numbers, photometric="palette", colormap=colours)
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages.first
        truth = page.colormap[:, page.asarray()]  # 16 bits each
    for channel in range(3):
        found = read_pixels(path, channel=channel)
        np.testing.assert_array_equal(found, truth[channel] // (256 if bits == 8 else 1))
    assert stored_bits(path) == bits


@pytest.mark.parametrize(
    ("photometric", "kind"), [("separated", "u2"), ("cielab", "u1"), ("ycbcr", "u2")]
)
def test_colours_that_are_neither_grey_nor_rgb_are_refused(
    tmp_path: Path, photometric: str, kind: str
) -> None:
    pixels = noise(40, 48, 4 if photometric == "separated" else 3, dtype=np.dtype(kind))
    path = save_tiff(tmp_path / "a.tif", pixels, photometric=photometric)
    with pytest.raises(ImageError, match="neither greyscale nor RGB"):
        open_file(path)


def test_pages_that_pillow_does_not_know_are_counted(tmp_path: Path) -> None:
    pages = noise(2, 40, 48, dtype=np.uint16)
    path = save_tiff(tmp_path / "a.tif", pages, photometric="miniswhite", byteorder=">")
    with pytest.raises(ImageError, match="2 pages"):
        open_file(path)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_exif_orientation(tmp_path: Path, suffix: str, orientation: int) -> None:
    path = tmp_path / f"a.{suffix}"
    exif = PIL.Image.Exif()
    exif[ORIENTATION] = orientation
    blocks = noise(5, 6).repeat(8, axis=0).repeat(8, axis=1)
    PIL.Image.fromarray(blocks).save(path, exif=exif)
    with PIL.Image.open(path) as image:
        truth = np.asarray(PIL.ImageOps.exif_transpose(image))
    if truth.ndim == 3:  # WebP has no grey
        truth = truth @ np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
    stack = open_file(path)[1]
    assert (stack.height, stack.width) == truth.shape
    np.testing.assert_allclose(stack.read(0), truth, atol=1e-3)
    assert (str(orientation) in stack.note) == (orientation != 1)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("packing", [None, "zlib"])
@pytest.mark.parametrize("kind", ["?", "u1", "u2", "i2", "f4", "rgb8", "rgb16", "palette"])
def test_orientation_of_tiff(tmp_path: Path, kind: str, packing: Any, orientation: int) -> None:
    further: dict[str, Any] = {"photometric": "minisblack"}
    if kind.startswith("rgb"):
        stored = noise(40, 48, 3, dtype=np.dtype(f"u{int(kind[3:]) // 8}"))
        further = {"photometric": "rgb"}
    elif kind == "palette":
        stored = noise(40, 48)
        greys = np.arange(256, dtype=np.uint16) * 257
        further = {"photometric": "palette", "colormap": np.stack([greys] * 3)}
    else:
        stored = example(kind)
    tags = [(ORIENTATION, 3, 1, orientation, True)]
    path = save_tiff(tmp_path / "a.tif", stored, compression=packing, extratags=tags, **further)
    flat = stored[:, :, 1] if stored.ndim == 3 else meant(stored, "minisblack")
    stack = open_file(path, as_is(channel=1 if stored.ndim == 3 else None))[1]
    np.testing.assert_array_equal(stack.read(0), UPRIGHT[orientation](flat))
    assert (str(orientation) in stack.note) == (orientation != 1)


@pytest.mark.parametrize("packing", ["tiff_lzw", "packbits", "jpeg"])
@pytest.mark.parametrize("orientation", [3, 6])
def test_orientation_of_tiff_that_only_pillow_unpacks(
    tmp_path: Path, orientation: int, packing: str
) -> None:
    blocks = noise(5, 6).repeat(8, axis=0).repeat(8, axis=1)
    exif = PIL.Image.Exif()
    exif[ORIENTATION] = orientation
    PIL.Image.fromarray(blocks).save(tmp_path / "a.tif", compression=packing, exif=exif)
    found = read_pixels(tmp_path / "a.tif")
    truth = UPRIGHT[orientation](blocks)
    assert found.shape == truth.shape
    np.testing.assert_allclose(found, truth, atol=60 if packing == "jpeg" else 0)


@pytest.mark.parametrize("exif", [b"Exif\0\0II*\0\x08\0\0\0\xff\xff", b"Exif\0\0nonsense"])
def test_damaged_exif_data_says_nothing(tmp_path: Path, exif: bytes) -> None:
    pixels = noise(40, 48)
    PIL.Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    stack = open_file(tmp_path / "a.png")[1]
    np.testing.assert_array_equal(stack.read(0), pixels)
    assert stack.note == ""


def test_prepare_notes_what_it_turned(tmp_path: Path) -> None:
    exif = PIL.Image.Exif()
    exif[ORIENTATION] = 6
    (tmp_path / "raw").mkdir()
    for name, options in (("a.png", {}), ("b.png", {"exif": exif})):
        image = PIL.Image.fromarray(noise(40, 48, seed=ord(name[0])))
        image.save(tmp_path / "raw" / name, **options)
    rows = [("a.png", "60", "Ann"), ("b.png", "61", "Bob")]
    write_table(tmp_path / "raw" / "t.csv", rows)
    result = run(tmp_path / "raw", tmp_path / "data", "xray")
    assert result.notes == {"b.png": "rotated upright (EXIF orientation 6)"}
    assert record(tmp_path / "data", "xray")["notes"] == result.notes
