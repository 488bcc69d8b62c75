from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import PIL.Image
import pydicom
import pytest
import tifffile
from pydicom.data import get_testdata_file

from conftest import (
    Array,
    as_is,
    noise,
    open_file,
    read_pixels,
    save_dicom,
    save_raster,
    save_tiff,
    truncate,
)
from medxlate.base.errors import ImageError
from medxlate.images.find import find_images, sniff
from medxlate.images.raster import stored_bits
from medxlate.images.recipes import Recipe
from medxlate.images.square import from_square, resize, to_square
from medxlate.images.write import write_grid, write_synthetic


def pydicom_file(name: str) -> Path:
    return Path(get_testdata_file(name, download=False))


def refuse(path: Path, reason: str, **options) -> None:
    """The file is refused for the reason."""
    with pytest.raises(ImageError, match=reason):
        open_file(path, as_is(**options))


def ramp(height: int, width: int) -> Array:
    """Bilinear in both directions, so that resampling changes it little."""
    y, x = np.mgrid[0:height, 0:width]
    return (y / (height - 1) + 2 * x / (width - 1)).astype(np.float32) / 3


# --- finding ---------------------------------------------------------------------------------


def test_images_are_found_by_content_below_the_root(tmp_path):
    save_raster(tmp_path / "b" / "deep" / "one.png", noise(9, 9))
    save_raster(tmp_path / "a.JPG", noise(9, 9), "JPEG")
    save_raster(tmp_path / "c.webp", noise(9, 9), "WEBP")
    save_tiff(tmp_path / "d.tif", noise(9, 9))
    save_dicom(tmp_path / "b" / "IM0001", noise(9, 9, dtype=np.int16))
    save_raster(tmp_path / ".hidden" / "x.png", noise(9, 9))
    save_raster(tmp_path / ".hidden.png", noise(9, 9))
    (tmp_path / "notes.csv").write_text("a,b")
    search = find_images(tmp_path)
    assert [(image.relative, image.format) for image in search.images] == [
        ("a.JPG", "jpeg"),
        ("b/IM0001", "dicom"),
        ("b/deep/one.png", "png"),
        ("c.webp", "webp"),
        ("d.tif", "tiff"),
    ]
    assert not any(image.suffix_lies for image in search.images)
    assert search.not_images == {}
    assert search.others == 1


def test_a_lying_suffix_is_noted_and_the_file_read_by_its_content(tmp_path):
    pixels = noise(12, 10)
    save_raster(tmp_path / "really_png.jpg", pixels, "PNG")
    save_dicom(tmp_path / "really_dicom.png", noise(9, 9, dtype=np.int16))
    (tmp_path / "text.png").write_text("I am a text")
    (tmp_path / "empty.dcm").write_bytes(b"")
    search = find_images(tmp_path)
    assert [image.suffix_lies for image in search.images] == [True, True]
    assert list(search.not_images) == ["empty.dcm", "text.png"]
    assert search.others == 0
    np.testing.assert_array_equal(read_pixels(tmp_path / "really_png.jpg"), pixels)


def test_a_single_file_is_found_too(tmp_path):
    path = save_raster(tmp_path / "one.png", noise(9, 9))
    assert [image.relative for image in find_images(path).images] == ["one.png"]


@pytest.mark.parametrize("content", [None, "nothing", "text"])
def test_a_root_without_images_is_an_error_that_names_it(tmp_path, content):
    root = tmp_path / "scans"
    if content:
        root.mkdir()
    if content == "text":
        (root / "a.png").write_text("text")
        (root / "b.txt").write_text("text")
    reason = {None: "does not exist", "nothing": "nothing found", "text": "2 other files found"}
    with pytest.raises(ImageError, match=reason[content]) as caught:
        find_images(root)
    assert str(root) in caught.value.message
    assert caught.value.exit_code == 1


# --- PNG, JPEG, TIFF -------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_grey_images_keep_every_stored_value_and_their_stored_bits(tmp_path, dtype, suffix):
    pixels = noise(20, 30, dtype=dtype)
    path = save_raster(tmp_path / f"a{suffix}", pixels)
    image = open_file(path)[1]
    assert image.read(0).dtype == np.float32
    np.testing.assert_array_equal(image.read(0), pixels)
    bits = 8 * pixels.itemsize
    assert stored_bits(path) == bits
    assert image.full_range == (0, 2**bits - 1)
    assert image.unit == ""


@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_tiff_of_either_byte_order_is_read(tmp_path, byteorder):
    pixels = noise(20, 30, dtype=np.uint16)
    path = save_tiff(tmp_path / "a.tif", pixels, byteorder=byteorder)
    np.testing.assert_array_equal(read_pixels(path), pixels)


def test_signed_tiff_keeps_negative_values_and_knows_its_range(tmp_path):
    pixels = noise(20, 30, dtype=np.int16)
    image = open_file(save_tiff(tmp_path / "a.tif", pixels))[1]
    np.testing.assert_array_equal(image.read(0), pixels)
    assert image.full_range == (-32768, 32767)
    assert stored_bits(tmp_path / "a.tif") == 16


def test_float_tiff_is_read_and_one_with_nan_refused(tmp_path):
    pixels = np.random.default_rng(0).normal(size=(20, 30)).astype(np.float32)
    np.testing.assert_array_equal(read_pixels(save_tiff(tmp_path / "a.tif", pixels)), pixels)
    pixels[3, 4] = np.nan
    refuse(save_tiff(tmp_path / "nan.tif", pixels), "not finite")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_min_is_white_tiff_is_turned_so_that_bright_is_large(tmp_path, dtype):
    pixels = noise(20, 30, dtype=dtype)
    path = save_tiff(tmp_path / "a.tif", pixels, photometric="miniswhite")
    np.testing.assert_array_equal(read_pixels(path), np.iinfo(dtype).max - pixels)


@pytest.mark.parametrize("channel", [0, 1, 2])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_a_channel_of_a_colour_tiff_is_taken_at_full_stored_bits(tmp_path, dtype, planar, channel):
    pixels = noise(20, 30, 3, dtype=dtype)
    saved = pixels if planar == "contig" else np.moveaxis(pixels, 2, 0)
    path = save_tiff(tmp_path / "a.tif", saved, photometric="rgb", planarconfig=planar)
    np.testing.assert_array_equal(read_pixels(path, channel=channel), pixels[:, :, channel])
    assert stored_bits(path) == 8 * pixels.itemsize


@pytest.mark.parametrize("channel", [3, -1])
def test_a_channel_that_does_not_exist_is_refused(tmp_path, channel):
    refuse(
        save_raster(tmp_path / "rgb.png", noise(9, 9, 3)),
        f"3 channels, so no channel {channel}",
        channel=channel,
    )
    refuse(
        save_raster(tmp_path / "grey.png", noise(9, 9)),
        f"only one channel, so no channel {channel}",
        channel=channel,
    )


def test_colour_becomes_luma(tmp_path):
    pixels = noise(20, 30, 3)
    path = save_raster(tmp_path / "a.png", pixels)
    truth = np.asarray(PIL.Image.fromarray(pixels).convert("L"), dtype=np.float32)
    np.testing.assert_allclose(read_pixels(path), truth, atol=1)


def test_jpeg_is_read_as_pillow_reads_it(tmp_path):
    path = save_raster(tmp_path / "a.jpg", noise(20, 30))
    with PIL.Image.open(path) as truth:
        np.testing.assert_array_equal(read_pixels(path), np.asarray(truth))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P"])
def test_grey_saved_as_another_mode_is_the_grey_image(tmp_path, mode):
    grey = noise(20, 30)
    image = PIL.Image.fromarray(grey)
    if mode in ("RGBA", "LA"):
        image.putalpha(PIL.Image.fromarray(noise(20, 30, seed=1)))
    image.convert(mode).save(tmp_path / "a.png")
    for channel in (None, 0):
        np.testing.assert_array_equal(read_pixels(tmp_path / "a.png", channel=channel), grey)
    assert stored_bits(tmp_path / "a.png") == 8


def test_16_bit_colour_png_is_refused_rather_than_cut_to_8_bits(tmp_path):
    path = save_raster(tmp_path / "a.png", noise(9, 9, 3))
    content = bytearray(path.read_bytes())
    content[24] = 16  # the header's bit depth
    path.write_bytes(content)
    refuse(path, "16-bit colour")


@pytest.mark.parametrize("colour", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_tiff_of_several_pages_is_refused(tmp_path, colour, dtype):
    pixels = noise(3, 20, 30, *((3,) if colour else ()), dtype=dtype)
    kind = "rgb" if colour else "minisblack"
    refuse(save_tiff(tmp_path / "a.tif", pixels, photometric=kind), "has 3 pages")


def test_exotic_types_are_refused_by_name(tmp_path):
    refuse(save_tiff(tmp_path / "a.tif", np.arange(100.0).reshape(10, 10)), "float64")


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "rgb16.tif"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_truncated_files_are_called_damaged(tmp_path, name, share):
    if name == "rgb16.tif":
        path = save_tiff(tmp_path / name, noise(64, 64, 3, dtype=np.uint16), photometric="rgb")
    else:
        path = save_raster(tmp_path / name, noise(64, 64))
    refuse(truncate(path, share), "damaged")


def test_what_is_no_image_is_refused(tmp_path):
    (tmp_path / "a.png").write_text("hello")
    refuse(tmp_path / "a.png", "no PNG, JPEG, WebP, TIFF, DICOM")
    refuse(tmp_path / "missing.png", "does not exist")


@pytest.mark.parametrize("shape", [(1, 1), (7, 100), (100, 7)])
def test_tiny_images_are_refused(tmp_path, shape):
    height, width = shape
    refuse(save_raster(tmp_path / "a.png", noise(*shape)), f"{width}x{height} pixels")


@pytest.mark.parametrize("value", [0, 255])
def test_images_of_one_value_are_refused(tmp_path, value):
    pixels = np.full((20, 20), value, np.uint8)
    refuse(save_raster(tmp_path / "a.png", pixels), f"all pixels are {value}")
    colour = noise(20, 20, 3)
    colour[:, :, 1] = value
    path = save_raster(tmp_path / "b.png", colour)
    refuse(path, f"all pixels are {value}", channel=1)
    assert read_pixels(path, channel=0).std() > 0


def test_a_dicom_file_that_begins_like_a_tiff_is_dicom():
    path = pydicom_file("CT_small.dcm")
    assert path.read_bytes()[:4] == b"II*\0"
    assert sniff(path) == "dicom"


# --- geometry --------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(40, 160), (160, 40), (64, 64), (150, 100)])
def test_the_square_keeps_the_aspect_ratio_and_fills_the_rest(height, width):
    square = to_square(np.ones((height, width), np.float32), 64, background=-7)
    assert square.shape == (64, 64)
    inside = square == 1
    assert set(np.unique(square)) <= {-7.0, 1.0}
    rows, columns = inside.any(1).sum(), inside.any(0).sum()
    assert max(rows, columns) == 64
    assert rows / columns == pytest.approx(height / width, rel=0.02)
    assert abs(int(inside.any(1).argmax()) - (64 - rows) / 2) <= 0.5
    assert abs(int(inside.any(0).argmax()) - (64 - columns) / 2) <= 0.5


@pytest.mark.parametrize(("height", "width"), [(40, 160), (160, 40), (64, 64), (150, 100), (9, 30)])
def test_an_image_comes_back_from_the_square_in_its_size_and_place(height, width):
    image = ramp(height, width)
    back = from_square(to_square(image, 64, background=-7), height, width)
    assert back.shape == image.shape
    assert np.abs(back - image).max() < 0.04


def test_an_image_of_the_squares_size_is_untouched():
    image = noise(64, 64).astype(np.float32)
    np.testing.assert_array_equal(to_square(image, 64, background=0), image)
    np.testing.assert_array_equal(from_square(image, 64, 64), image)


def test_shrinking_averages_and_stays_in_range():
    image = np.indices((64, 64)).sum(0) % 2 * np.float32(100)  # a chess board of single pixels
    small = resize(image, 8, 8)
    np.testing.assert_allclose(small, 50, atol=3)
    spikes = noise(200, 200).astype(np.float32)
    assert resize(spikes, 31, 17).min() >= 0
    assert resize(spikes, 31, 17).max() <= 255


# --- writing ---------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_a_synthetic_image_says_so_and_gives_its_physical_values_back(tmp_path, suffix, bits):
    network = ramp(40, 60) * 2 - 1
    recipe = Recipe(kind="ct", window=(40, 400), unit="HU", bits=bits, output_range=(-160.0, 240.0))
    path = tmp_path / "new" / f"a{suffix}"
    write_synthetic(path, network, recipe=recipe, facts={"model": "m1"})
    with PIL.Image.open(path) as image:
        stored = np.asarray(image)
        text = image.text["medxlate"] if suffix == ".png" else image.tag_v2[270]
        if suffix == ".png":
            assert image.text["Synthetic"] == "true"
    if suffix == ".tif":
        np.testing.assert_array_equal(tifffile.imread(path), stored)
    assert stored.dtype == (np.uint8 if bits == 8 else np.uint16)
    facts = json.loads(text)
    assert facts["synthetic"] is True
    assert facts["model"] == "m1"
    assert facts["unit"] == "HU"
    physical = stored * facts["slope"] + facts["intercept"]
    np.testing.assert_allclose(physical, -160 + (network + 1) * 200, atol=400 / (2**bits - 1))


def test_a_grid_places_its_tiles_in_rows(tmp_path):
    tiles = [[np.full((8, 8), v, np.float32) for v in (-1, 0)], [np.full((8, 8), 1, np.float32)]]
    write_grid(tmp_path / "new" / "g.png", tiles, gap=2)
    with PIL.Image.open(tmp_path / "new" / "g.png") as image:
        grid = np.asarray(image)
    assert grid.shape == (18, 18)
    assert (grid[:8, :8] == 0).all()
    assert (grid[:8, 10:] == 128).all()
    assert (grid[8:] == 255).all()


def test_a_grid_is_enlarged_below_its_titles(tmp_path):
    tiles = [[np.full((32, 32), v, np.float32) for v in (-1, 0)]]
    write_grid(tmp_path / "g.png", tiles, scale=3, titles=["mri", "a title " * 9], heading="Epoch")
    with PIL.Image.open(tmp_path / "g.png") as image:
        grid = np.asarray(image)
    assert grid.shape[1] == 2 * 96 + 2
    above = grid.shape[0] - 96
    assert (grid[above:, :96] == 0).all()
    assert (grid[above:, 98:] == 128).all()
    for box in (grid[: above // 2], grid[above // 2 : above, :96], grid[above // 2 : above, 98:]):
        assert (box < 160).any()  # letters
    assert (grid[:above, 96:98] == 255).all()  # a long title stays above its column


# --- the real files --------------------------------------------------------------------------


def test_every_real_ct_is_read_in_hounsfield_units(real_data):
    search = find_images(real_data("chest-ct"))
    assert len(search.images) == 63
    for found in search.images[::8]:
        header = pydicom.dcmread(found.path)
        flip = int(float(header.ImageOrientationPatient[0]))  # one lies on its face
        image = open_file(found.path)[1]
        truth = header.pixel_array * float(header.RescaleSlope) + float(header.RescaleIntercept)
        if "PixelPaddingValue" in header:
            truth[header.pixel_array == header.PixelPaddingValue] = np.nan
        np.testing.assert_allclose(image.read(0)[::flip, ::flip], truth, rtol=1e-6)
        assert image.unit == "HU"


def test_real_lgg_channels_are_those_of_tifffile(real_data):
    paths = [p for p in real_data("lgg-mri-native").rglob("*.tif") if "_mask" not in p.name]
    assert len(paths) == 72
    for path in paths[::12]:
        truth = tifffile.imread(path)
        for channel in range(3):
            np.testing.assert_array_equal(read_pixels(path, channel=channel), truth[:, :, channel])


def test_a_real_ct_that_broke_off_in_copying_is_refused(real_data, tmp_path):
    source = find_images(real_data("chest-ct")).images[0].path
    path = truncate(Path(shutil.copy(source, tmp_path / "cut.dcm")))
    refuse(path, "truncated|cut short|broke")


@pytest.mark.parametrize("kind", ["png", "jpg", "tif", "dcm"])
def test_damaged_bytes_end_in_an_image_or_a_clean_error(tmp_path, kind):
    pixels = noise(24, 20, seed=1)
    if kind == "dcm":
        path = save_dicom(tmp_path / "a.dcm", pixels.astype(np.int16))
    else:
        path = save_raster(tmp_path / f"a.{kind}", pixels)
    whole = np.frombuffer(path.read_bytes(), dtype=np.uint8)
    random = np.random.default_rng(0)
    for _ in range(300):
        broken = whole.copy()
        places = random.integers(0, len(whole), random.integers(1, 6))
        broken[places] = random.integers(0, 256, len(places))
        path.write_bytes(broken.tobytes())
        try:
            finite = np.isfinite(read_pixels(path)).all()
        except ImageError:
            continue
        assert finite
