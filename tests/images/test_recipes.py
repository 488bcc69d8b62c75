"""Intensity recipes against closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from conftest import Array, as_is, noise, open_file, save_raster
from medxlate.base.errors import ImageError, UsageError
from medxlate.images.recipes import (
    WINDOWS,
    Recipe,
    is_near_empty,
    make_recipe,
    to_network,
)
from medxlate.images.stack import Stack


def stack_of(pixels: Array, unit: str = "", full_range=(0.0, 255.0)) -> Stack:
    """A stack of [H, W] or [n, H, W]."""
    slices = np.atleast_3d(pixels.T).T.astype(np.float32)
    shape = slices.shape
    return Stack(*shape, (1.0, 1.0), unit, full_range, lambda k: slices[k].copy())


def recipe_of(kind: str, *, guess="mr", bits=16, **options) -> Recipe:
    return make_recipe(kind, modality="x", guess=guess, bits=bits, **options)


def stored_of(recipe: Recipe, stack: Stack, size: int = 64) -> Array:
    return recipe.store(stack.read(0), size, limits=recipe.limits(stack))


def test_auto_takes_what_the_files_look_like():
    assert recipe_of("auto", guess="ct") == recipe_of("ct", window="soft-tissue")
    assert recipe_of("auto", guess="ct").window == (40, 400)
    assert recipe_of("auto", guess="mr").percentiles == (0.5, 99.5)
    assert recipe_of("auto", guess="pet").window == (5, 10)


@pytest.mark.parametrize("name", WINDOWS)
def test_windows_have_names(name):
    assert recipe_of("ct", window=name).window == WINDOWS[name]


def test_the_ct_window_maps_hounsfield_units_linearly_and_clips():
    pixels = np.linspace(-1000, 1000, 64 * 64).reshape(64, 64)
    stored = stored_of(recipe_of("ct", window=(50, 300)), stack_of(pixels, "HU"))
    assert stored.dtype == np.uint16
    truth = np.rint(np.clip((pixels.astype(np.float32) + 100) / 300, 0, 1) * 65535)
    np.testing.assert_allclose(stored, truth, atol=1)
    assert stored.min() == 0
    assert stored.max() == 65535


@pytest.mark.parametrize("bits", [8, 16])
def test_hounsfield_units_come_back_within_one_quantisation_step(bits):
    pixels = np.random.default_rng(0).uniform(-160, 240, (64, 64))
    recipe = recipe_of("ct", bits=bits).model_copy(update={"output_range": (-160.0, 240.0)})
    stored = stored_of(recipe, stack_of(pixels, "HU"))
    slope, intercept = recipe.rescale
    step = 400 / (2**bits - 1)
    assert np.abs(stored * slope + intercept - pixels).max() <= step
    assert np.abs(recipe.physical(to_network(stored, 64)) - pixels).max() <= step


def test_uptake_values_come_back_within_one_quantisation_step():
    pixels = np.random.default_rng(0).uniform(0, 10, (64, 64))
    recipe = recipe_of("pet").model_copy(update={"output_range": (0.0, 10.0)})
    stored = stored_of(recipe, stack_of(pixels, "SUVbw"))
    assert np.abs(recipe.physical(to_network(stored, 64)) - pixels).max() <= 10 / 65535


@pytest.mark.parametrize(("kind", "needs"), [("ct", "Hounsfield units"), ("pet", "uptake values")])
def test_a_window_on_an_image_without_its_unit_is_refused(tmp_path, kind, needs):
    stack = open_file(save_raster(tmp_path / "a.png", noise(20, 20)))[1]
    with pytest.raises(ImageError, match=f"needs .*{needs}.*--recipe mr, xray or as-is"):
        recipe_of(kind).limits(stack)


def test_percentiles_are_those_of_the_image():
    pixels = np.random.default_rng(0).normal(size=(64, 64)) ** 3
    recipe = recipe_of("xray", percentiles=(2, 90))
    low, high = np.quantile(pixels, [0.02, 0.9])
    assert recipe.limits(stack_of(pixels)) == pytest.approx((low, high), rel=1e-5)
    stored = stored_of(recipe, stack_of(pixels))
    assert (stored == 0).mean() == pytest.approx(0.02, abs=0.001)
    assert (stored == 65535).mean() == pytest.approx(0.10, abs=0.001)


def test_percentiles_of_a_volume_are_those_of_all_its_voxels():
    volume = np.random.default_rng(0).normal(size=(20, 16, 16)) + np.arange(20)[:, None, None]
    wanted = np.quantile(volume, [0.02, 0.9])
    limits = recipe_of("mr", percentiles=(2, 90)).limits(stack_of(volume))
    assert limits == pytest.approx(tuple(wanted), rel=1e-5)


def test_percentiles_of_a_large_volume_are_near_those_of_all_its_voxels():
    random = np.random.default_rng(0)
    volume = random.gamma(2, 100, (150, 256, 256)).astype(np.float32)
    volume *= np.linspace(1, 2, 150, dtype=np.float32)[:, None, None]
    limits = recipe_of("mr").limits(stack_of(volume))
    assert limits == pytest.approx(tuple(np.quantile(volume, [0.005, 0.995])), rel=0.02)


def test_a_slice_that_cannot_be_read_does_not_hide_the_limits_of_the_others():
    volume = np.random.default_rng(0).normal(size=(5, 16, 16)).astype(np.float32)
    stack = stack_of(volume)

    def read(number):
        if number == 2:
            raise ImageError("damaged")
        return volume[number]

    broken = Stack(5, 16, 16, (1.0, 1.0), "", (0.0, 1.0), read)
    rest = stack_of(np.delete(volume, 2, axis=0))
    assert recipe_of("mr").limits(broken) == recipe_of("mr").limits(rest)
    assert recipe_of("mr").limits(broken) != recipe_of("mr").limits(stack)


def test_a_scan_of_one_value_is_refused():
    with pytest.raises(ImageError, match="all voxels are 7"):
        recipe_of("mr").limits(stack_of(np.full((3, 16, 16), 7)))


def test_a_mostly_empty_image_keeps_its_contrast_under_percentiles():
    pixels = np.zeros((64, 64))
    pixels[5, 5] = 200
    stored = stored_of(recipe_of("xray", percentiles=(1, 99)), stack_of(pixels))
    assert stored[5, 5] == 65535
    assert stored.sum() == 65535


def test_as_is_uses_the_range_of_the_stored_type():
    pixels = noise(64, 64) // 2
    np.testing.assert_array_equal(stored_of(as_is(bits=8), stack_of(pixels)), pixels)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize(("shown", "empty"), [(0, True), (40, True), (41, False), (4096, False)])
def test_a_slice_is_near_empty_below_one_percent_of_its_pixels(dtype, shown, empty):
    peak = np.iinfo(dtype).max
    pixels = np.full(4096, int(0.05 * peak), dtype)  # 1 % of 4096 is 40.96
    pixels[:shown] = int(0.05 * peak) + 1
    assert is_near_empty(pixels.reshape(64, 64)) is empty


@pytest.mark.parametrize(
    ("kind", "options", "reason"),
    [
        ("xrayy", {}, "Unknown recipe 'xrayy'.*'xray'"),
        ("ct", {"percentiles": (1, 99)}, "--percentiles applies to the recipes mr and xray"),
        ("mr", {"window": (40, 400)}, "--window applies to the recipes ct and pet"),
        ("as-is", {"window": (40, 400)}, "--window applies to the recipes ct and pet"),
        ("xray", {"n4": True}, "--n4 applies to the recipe mr"),
        ("ct", {"window": (40, 0)}, "width must be positive"),
        ("ct", {"window": "lungs"}, "no window 'lungs'.*'lung'"),
        ("pet", {"window": "lung"}, "recipe pet has no window 'lung'"),
        ("mr", {"percentiles": (99, 1)}, "LOW < HIGH"),
        ("mr", {"percentiles": (1, 101)}, "HIGH <= 100"),
    ],
)
def test_a_recipe_that_makes_no_sense_is_wrong_use(kind, options, reason):
    with pytest.raises(UsageError, match=reason) as caught:
        recipe_of(kind, **options)
    assert caught.value.exit_code == 2
