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

from conftest import Array, noise, save_dicom, save_raster, save_tiff, truncate
from medxlate.errors import ImageError, UsageError
from medxlate.images.dicom import check_keyword, write_dicom
from medxlate.images.find import FoundImage, find_images, sniff
from medxlate.images.geometry import from_square, resize, to_square
from medxlate.images.image import Image
from medxlate.images.read import read_image, stored_bits
from medxlate.images.recipes import Recipe, make_recipe, to_network, to_stored
from medxlate.images.write import write_grid, write_synthetic


def pydicom_file(name: str) -> Path:
    return Path(get_testdata_file(name, download=False))


def depth(path: Path) -> int:
    format_ = sniff(path)
    assert format_ is not None
    return stored_bits(FoundImage(path, path.name, format_, False))


def refuse(path: Path, reason: str, **options) -> None:
    """The file is refused by name, for the reason."""
    with pytest.raises(ImageError, match=reason) as caught:
        read_image(path, **options)
    assert str(path) in caught.value.message


def ramp(height: int, width: int) -> Array:
    """Bilinear in both directions, so that resampling changes it little."""
    y, x = np.mgrid[0:height, 0:width]
    return (y / (height - 1) + 2 * x / (width - 1)).astype(np.float32) / 3


# --- finding ---------------------------------------------------------------------------------


def test_images_are_found_by_content_below_the_root(tmp_path):
    save_raster(tmp_path / "b" / "deep" / "one.png", noise(9, 9))
    save_raster(tmp_path / "a.JPG", noise(9, 9), "JPEG")
    save_tiff(tmp_path / "c.tif", noise(9, 9))
    save_dicom(tmp_path / "b" / "IM0001", noise(9, 9, dtype=np.int16))
    save_raster(tmp_path / ".hidden" / "x.png", noise(9, 9))
    save_raster(tmp_path / ".hidden.png", noise(9, 9))
    (tmp_path / "notes.csv").write_text("a,b")
    search = find_images(tmp_path)
    assert [(image.relative, image.format) for image in search.images] == [
        ("a.JPG", "jpeg"),
        ("b/IM0001", "dicom"),
        ("b/deep/one.png", "png"),
        ("c.tif", "tiff"),
    ]
    assert not any(image.suffix_lies for image in search.images)
    assert search.not_images == ()
    assert search.others == 1


def test_a_lying_suffix_is_noted_and_the_file_read_by_its_content(tmp_path):
    pixels = noise(12, 10)
    save_raster(tmp_path / "really_png.jpg", pixels, "PNG")
    save_dicom(tmp_path / "really_dicom.png", noise(9, 9, dtype=np.int16))
    (tmp_path / "text.png").write_text("I am a text")
    (tmp_path / "empty.dcm").write_bytes(b"")
    search = find_images(tmp_path)
    assert [image.suffix_lies for image in search.images] == [True, True]
    assert search.not_images == ("empty.dcm", "text.png")
    assert search.others == 0
    np.testing.assert_array_equal(read_image(tmp_path / "really_png.jpg").pixels, pixels)


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
def test_grey_images_keep_every_stored_value_and_their_depth(tmp_path, dtype, suffix):
    pixels = noise(20, 30, dtype=dtype)
    path = save_raster(tmp_path / f"a{suffix}", pixels)
    image = read_image(path)
    assert image.pixels.dtype == np.float32
    np.testing.assert_array_equal(image.pixels, pixels)
    bits = 8 * pixels.itemsize
    assert depth(path) == bits
    assert image.full_range == (0, 2**bits - 1)
    assert image.unit == ""


@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_tiff_of_either_byte_order_is_read(tmp_path, byteorder):
    pixels = noise(20, 30, dtype=np.uint16)
    path = save_tiff(tmp_path / "a.tif", pixels, byteorder=byteorder)
    np.testing.assert_array_equal(read_image(path).pixels, pixels)


def test_signed_tiff_keeps_negative_values_and_knows_its_range(tmp_path):
    pixels = noise(20, 30, dtype=np.int16)
    image = read_image(save_tiff(tmp_path / "a.tif", pixels))
    np.testing.assert_array_equal(image.pixels, pixels)
    assert image.full_range == (-32768, 32767)
    assert depth(tmp_path / "a.tif") == 16


def test_float_tiff_is_read_and_one_with_nan_refused(tmp_path):
    pixels = np.random.default_rng(0).normal(size=(20, 30)).astype(np.float32)
    np.testing.assert_array_equal(read_image(save_tiff(tmp_path / "a.tif", pixels)).pixels, pixels)
    pixels[3, 4] = np.nan
    refuse(save_tiff(tmp_path / "nan.tif", pixels), "not finite")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_min_is_white_tiff_is_turned_so_that_bright_is_large(tmp_path, dtype):
    pixels = noise(20, 30, dtype=dtype)
    path = save_tiff(tmp_path / "a.tif", pixels, photometric="miniswhite")
    np.testing.assert_array_equal(read_image(path).pixels, np.iinfo(dtype).max - pixels)


@pytest.mark.parametrize("channel", [0, 1, 2])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_a_channel_of_a_colour_tiff_is_taken_at_full_depth(tmp_path, dtype, planar, channel):
    pixels = noise(20, 30, 3, dtype=dtype)
    saved = pixels if planar == "contig" else np.moveaxis(pixels, 2, 0)
    path = save_tiff(tmp_path / "a.tif", saved, photometric="rgb", planarconfig=planar)
    image = read_image(path, channel=channel)
    np.testing.assert_array_equal(image.pixels, pixels[:, :, channel])
    assert depth(path) == 8 * pixels.itemsize


@pytest.mark.parametrize("channel", [3, -1])
def test_a_channel_that_does_not_exist_is_refused(tmp_path, channel):
    refuse(
        save_raster(tmp_path / "rgb.png", noise(9, 9, 3)),
        f"3 channels; there is no channel {channel}",
        channel=channel,
    )
    refuse(
        save_raster(tmp_path / "grey.png", noise(9, 9)),
        f"one channel; there is no channel {channel}",
        channel=channel,
    )


def test_colour_becomes_luma(tmp_path):
    pixels = noise(20, 30, 3)
    path = save_raster(tmp_path / "a.png", pixels)
    truth = np.asarray(PIL.Image.fromarray(pixels).convert("L"), dtype=np.float32)
    np.testing.assert_allclose(read_image(path).pixels, truth, atol=1)


def test_jpeg_is_read_as_pillow_reads_it(tmp_path):
    path = save_raster(tmp_path / "a.jpg", noise(20, 30))
    with PIL.Image.open(path) as truth:
        np.testing.assert_array_equal(read_image(path).pixels, np.asarray(truth))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P"])
def test_grey_saved_as_another_mode_is_the_grey_image(tmp_path, mode):
    grey = noise(20, 30)
    image = PIL.Image.fromarray(grey)
    if mode in ("RGBA", "LA"):
        image.putalpha(PIL.Image.fromarray(noise(20, 30, seed=1)))
    image.convert(mode).save(tmp_path / "a.png")
    for channel in (None, 0):
        np.testing.assert_array_equal(read_image(tmp_path / "a.png", channel=channel).pixels, grey)
    assert depth(tmp_path / "a.png") == 8


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
    refuse(save_tiff(tmp_path / "a.tif", pixels, photometric=kind), "holds 3 pages")


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
    refuse(tmp_path / "a.png", "no PNG, JPEG, TIFF or DICOM")
    refuse(tmp_path / "missing.png", "cannot be opened")


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
    assert read_image(path, channel=0).pixels.std() > 0


# --- DICOM -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.int16, np.uint16])
def test_stored_values_are_rescaled_to_hounsfield_units(tmp_path, dtype):
    stored = noise(20, 30, dtype=dtype) // 8
    path = save_dicom(tmp_path / "a.dcm", stored, RescaleSlope="2.5", RescaleIntercept="-1000")
    image = read_image(path)
    np.testing.assert_array_equal(image.pixels, stored * np.float32(2.5) - 1000)
    assert image.unit == "HU"
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    assert image.full_range == (low * 2.5 - 1000, high * 2.5 - 1000)


@pytest.mark.parametrize(
    "attributes",
    [
        {"Modality": "MR"},
        {"RescaleType": "OD"},
        {"RescaleSlope": None, "RescaleIntercept": None},
    ],
)
def test_hounsfield_units_are_claimed_for_rescaled_ct_only(tmp_path, attributes):
    stored = noise(20, 30, dtype=np.int16)
    assert read_image(save_dicom(tmp_path / "a.dcm", stored, **attributes)).unit == ""


@pytest.mark.parametrize("bits", [12, 16])
def test_monochrome1_is_turned_within_the_stored_range(tmp_path, bits):
    stored = noise(20, 30, dtype=np.uint16) >> (16 - bits)
    path = save_dicom(
        tmp_path / "a.dcm",
        stored,
        Modality="DX",
        PhotometricInterpretation="MONOCHROME1",
        BitsStored=bits,
        HighBit=bits - 1,
        RescaleSlope=None,
        RescaleIntercept=None,
    )
    image = read_image(path)
    np.testing.assert_array_equal(image.pixels, 2**bits - 1 - stored.astype(np.int64))
    assert image.full_range == (0, 2**bits - 1)


def test_hounsfield_units_do_not_depend_on_how_they_are_shown(tmp_path):
    stored = noise(20, 30, dtype=np.int16)
    plain = read_image(save_dicom(tmp_path / "a.dcm", stored))
    dark = read_image(
        save_dicom(tmp_path / "b.dcm", stored, PhotometricInterpretation="MONOCHROME1")
    )
    assert plain.unit == "HU"
    np.testing.assert_array_equal(dark.pixels, plain.pixels)


def test_tags_are_brought_along_trimmed_and_absent_ones_left_out(tmp_path):
    path = save_dicom(
        tmp_path / "a.dcm", noise(20, 30, dtype=np.int16), PatientSex="", PatientName="A^B "
    )
    tags = read_image(path, tags=["PatientAge", "PatientSex", "PatientName", "StudyDate"]).tags
    assert tags == {"PatientAge": "060Y", "PatientName": "A^B"}


def test_a_tag_that_does_not_exist_is_wrong_use():
    check_keyword("PatientAge")
    with pytest.raises(UsageError, match="'PatientAgee' is no DICOM attribute"):
        check_keyword("PatientAgee")


def test_dicom_of_several_frames_is_refused(tmp_path):
    refuse(save_dicom(tmp_path / "a.dcm", noise(3, 20, 30, dtype=np.int16)), "holds 3 frames")


@pytest.mark.parametrize("share", [0.4, 0.9])
def test_truncated_dicom_is_refused(tmp_path, share):
    path = truncate(save_dicom(tmp_path / "a.dcm", noise(64, 64, dtype=np.int16)), share)
    refuse(path, "cannot be decoded|damaged|without pixel data")


def test_dicom_without_pixels_or_with_colours_is_refused():
    refuse(pydicom_file("rtplan.dcm"), "without pixel data")
    refuse(pydicom_file("SC_rgb_small_odd.dcm"), "colour")
    refuse(pydicom_file("examples_palette.dcm"), "colour")


@pytest.mark.parametrize(
    "name",
    [
        "CT_small.dcm",
        "MR_small.dcm",
        "MR_small_RLE.dcm",
        "MR_small_bigendian.dcm",
        "MR_small_implicit.dcm",
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_transfer_syntaxes_are_read_with_the_right_rescale(name):
    header = pydicom.dcmread(pydicom_file(name))
    slope, intercept = header.get("RescaleSlope", 1), header.get("RescaleIntercept", 0)
    truth = header.pixel_array * float(slope) + float(intercept)
    np.testing.assert_array_equal(read_image(pydicom_file(name)).pixels, truth)


def test_a_dicom_file_that_begins_like_a_tiff_is_dicom():
    path = pydicom_file("CT_small.dcm")
    assert path.read_bytes()[:4] == b"II*\0"
    assert sniff(path) == "dicom"


def test_each_of_pydicoms_odd_files_is_read_or_refused_by_name():
    paths = sorted(pydicom_file("CT_small.dcm").parent.glob("*.dcm"))
    read = refused = 0
    for path in paths:
        try:
            image = read_image(path)
        except ImageError as problem:
            refused += str(path) in problem.message
        else:
            read += image.pixels.ndim == 2
    assert read + refused == len(paths)
    assert read >= 15
    assert refused >= 30


def test_written_dicom_is_what_pydicom_reads(tmp_path):
    stored = noise(20, 30, dtype=np.int16)
    attributes = {"RescaleSlope": "2", "RescaleIntercept": "-5", "PatientAge": "018M"}
    write_dicom(tmp_path / "new" / "a.dcm", stored, modality="CT", attributes=attributes)
    header = pydicom.dcmread(tmp_path / "new" / "a.dcm")
    np.testing.assert_array_equal(header.pixel_array, stored)
    assert header.SOPClassUID.name == "CT Image Storage"
    image = read_image(tmp_path / "new" / "a.dcm", tags=["PatientAge"])
    np.testing.assert_array_equal(image.pixels, stored * 2.0 - 5)
    assert image.unit == "HU"
    assert image.tags == {"PatientAge": "018M"}


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


# --- recipes ---------------------------------------------------------------------------------


def image_of(pixels: Array, unit: str = "", full_range=(0.0, 255.0)) -> Image:
    return Image(pixels.astype(np.float32), unit, full_range)


def recipe_of(kind: str, *, unit: str = "HU", bits=16, **options) -> Recipe:
    return make_recipe(kind, modality="x", unit=unit, bits=bits, **options)


def test_auto_chooses_ct_for_hounsfield_units_and_percentiles_otherwise():
    assert recipe_of("auto") == recipe_of("ct", window=(40, 400))
    assert recipe_of("auto", unit="") == recipe_of("percentile", unit="", percentiles=(0.5, 99.5))


def test_the_ct_window_maps_hounsfield_units_linearly_and_clips():
    pixels = np.linspace(-1000, 1000, 64 * 64).reshape(64, 64)
    stored = recipe_of("ct", window=(50, 300)).store(image_of(pixels, "HU"), 64)
    assert stored.dtype == np.uint16
    truth = np.rint(np.clip((pixels.astype(np.float32) + 100) / 300, 0, 1) * 65535)
    np.testing.assert_allclose(stored, truth, atol=1)
    assert stored.min() == 0
    assert stored.max() == 65535


@pytest.mark.parametrize("bits", [8, 16])
def test_hounsfield_units_come_back_within_one_quantisation_step(bits):
    pixels = np.random.default_rng(0).uniform(-160, 240, (64, 64))
    recipe = recipe_of("ct", bits=bits).model_copy(update={"output_range": (-160.0, 240.0)})
    slope, intercept = recipe.rescale
    back = recipe.store(image_of(pixels, "HU"), 64) * slope + intercept
    assert np.abs(back - pixels).max() <= 400 / (2**bits - 1)


def test_ct_on_an_image_without_hounsfield_units_is_refused(tmp_path):
    image = read_image(save_raster(tmp_path / "a.png", noise(20, 20)))
    with pytest.raises(ImageError, match=r"needs Hounsfield units.*--recipe percentile"):
        recipe_of("ct").store(image, 32)


def test_percentiles_are_those_of_the_image():
    pixels = np.random.default_rng(0).normal(size=(64, 64)) ** 3
    recipe = recipe_of("percentile", unit="", percentiles=(2, 90))
    low, high = np.quantile(pixels, [0.02, 0.9])
    assert recipe.limits(image_of(pixels)) == pytest.approx((low, high), rel=1e-5)
    stored = recipe.store(image_of(pixels), 64)
    assert (stored == 0).mean() == pytest.approx(0.02, abs=0.001)
    assert (stored == 65535).mean() == pytest.approx(0.10, abs=0.001)


def test_a_mostly_empty_image_keeps_its_contrast_under_percentiles():
    pixels = np.zeros((64, 64))
    pixels[5, 5] = 200
    stored = recipe_of("percentile", unit="", percentiles=(1, 99)).store(image_of(pixels), 64)
    assert stored[5, 5] == 65535
    assert stored.sum() == 65535


def test_as_is_uses_the_range_of_the_stored_type():
    pixels = noise(64, 64) // 2
    stored = recipe_of("as-is", unit="", bits=8).store(image_of(pixels), 64)
    np.testing.assert_array_equal(stored, pixels)


@pytest.mark.parametrize(
    ("kind", "options", "reason"),
    [
        ("percentil", {}, "no recipe 'percentil'.*'percentile'"),
        ("ct", {"percentiles": (1, 99)}, "--percentiles belongs to percentile"),
        ("percentile", {"window": (40, 400)}, "--window belongs to the recipe ct"),
        ("as-is", {"window": (40, 400)}, "--window belongs to the recipe ct"),
        ("ct", {"window": (40, 0)}, "width must be positive"),
        ("percentile", {"percentiles": (99, 1)}, "must rise"),
        ("percentile", {"percentiles": (1, 101)}, "within 0..100"),
    ],
)
def test_a_recipe_that_makes_no_sense_is_wrong_use(kind, options, reason):
    with pytest.raises(UsageError, match=reason) as caught:
        recipe_of(kind, **options)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("bits", [8, 16])
def test_stored_integers_span_minus_one_to_one(bits):
    peak = 2**bits - 1
    ends = to_stored(np.array([[-1, 1, -9, 9]], np.float32), bits)
    assert ends.tolist() == [[0, peak, 0, peak]]
    every = np.arange(peak + 1, dtype=ends.dtype).reshape(-1, 256)
    network = every / peak * 2 - 1
    np.testing.assert_array_equal(to_stored(network.astype(np.float32), bits), every)
    some = every[:1].repeat(256, 0)
    np.testing.assert_allclose(to_network(some, 256), network[:1].repeat(256, 0), atol=1e-6)
    assert to_network(some, 64).shape == (64, 64)


# --- writing ---------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_a_synthetic_image_says_so_and_gives_its_physical_values_back(tmp_path, suffix, bits):
    network = ramp(40, 60) * 2 - 1
    recipe = recipe_of("ct", bits=bits).model_copy(update={"output_range": (-160.0, 240.0)})
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


# --- the real files --------------------------------------------------------------------------


def test_every_real_ct_is_read_in_hounsfield_units(real_data):
    search = find_images(real_data("chest-ct"))
    assert len(search.images) == 63
    for found in search.images[::8]:
        header = pydicom.dcmread(found.path)
        image = read_image(found.path)
        truth = header.pixel_array * float(header.RescaleSlope) + float(header.RescaleIntercept)
        np.testing.assert_array_equal(image.pixels, truth.astype(np.float32))
        assert image.unit == "HU"


def test_real_lgg_channels_are_those_of_tifffile(real_data):
    paths = [p for p in real_data("lgg-mri-native").rglob("*.tif") if "_mask" not in p.name]
    assert len(paths) == 72
    for path in paths[::12]:
        truth = tifffile.imread(path)
        for channel in range(3):
            np.testing.assert_array_equal(
                read_image(path, channel=channel).pixels, truth[:, :, channel]
            )


def test_a_real_ct_that_broke_off_in_copying_is_refused(real_data, tmp_path):
    source = find_images(real_data("chest-ct")).images[0].path
    path = truncate(Path(shutil.copy(source, tmp_path / "cut.dcm")))
    refuse(path, "cannot be decoded")


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
            finite = np.isfinite(read_image(path).pixels).all()
        except ImageError:
            continue
        assert finite
