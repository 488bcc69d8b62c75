"""N4: a phantom whose bias field is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from medxlate.base.errors import ImageError
from medxlate.images.bias import correct_bias
from medxlate.images.stack import FloatArray, Stack

Array = np.ndarray[Any, Any]


def stack_of(volume: Array) -> Stack:
    values = volume.astype(np.float32)
    count, height, width = values.shape
    return Stack(count, height, width, (1.5, 1.5), "", (0.0, 4095.0), lambda k: values[k])


def phantom() -> tuple[Array, Array, Array]:
    """Return a volume of three tissues, its smooth field, and its labels (0 is air)."""
    axes = [np.linspace(-1, 1, side) for side in (20, 80, 72)]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    radius = np.sqrt(x**2 / 0.8 + y**2 + z**2 / 1.2)
    labels = np.digitize(-radius, [-0.9, -0.6, -0.25])
    field = np.exp(0.35 * x - 0.25 * y + 0.2 * z * x + 0.15 * y * y - 0.1 * z)
    noise = np.random.default_rng(0).normal(0, 8, x.shape)
    return np.array([0, 600, 1000, 300])[labels] * field + noise, field, labels


def spread(values: Array) -> float:
    return float(values.std() / values.mean())


@pytest.fixture(scope="module")
def corrected() -> Array:
    return np.stack(list(correct_bias(stack_of(phantom()[0]), 3.0).slices()))


def test_the_known_field_is_found_and_removed(corrected: Array) -> None:
    volume, field, labels = phantom()
    for tissue in (1, 2, 3):
        at = labels == tissue
        assert spread(corrected[at]) < spread(volume[at]) / (2 if tissue < 3 else 1.5)
    tissue = labels > 0
    ratio = (volume / corrected)[tissue] / field[tissue]
    ratio /= np.median(ratio)
    assert np.percentile(np.abs(ratio - 1), 95) < 0.04
    assert corrected.dtype == np.float32


def test_the_number_of_threads_changes_no_bit(corrected: Array) -> None:
    usual = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(usual + 3)
    try:
        again = correct_bias(stack_of(phantom()[0]), 3.0)
        assert sitk.ProcessObject.GetGlobalDefaultNumberOfThreads() == usual + 3
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(usual)
    assert np.stack(list(again.slices())).tobytes() == corrected.tobytes()


@pytest.mark.parametrize(
    "volume",
    [
        np.zeros((3, 20, 20)),
        np.full((5, 20, 20), 3.0),
        -np.abs(np.random.default_rng(0).normal(size=(6, 20, 20))),
        np.random.default_rng(0).random((1, 64, 64)) * 100,
        np.random.default_rng(0).random((2, 8, 300)) * 100,
        (np.random.default_rng(0).random((9, 30, 30)) > 0.5) * 1.0,
        np.where(np.arange(24**3).reshape(24, 24, 24) == 5, 7.0, 0.0),
    ],
    ids=["zero", "constant", "negative", "one slice", "two slices", "binary", "one voxel"],
)
def test_odd_volumes_come_back_finite_with_their_signs(volume: Array) -> None:
    out = np.stack(list(correct_bias(stack_of(volume), 2.0).slices()))
    assert np.isfinite(out).all()
    np.testing.assert_array_equal(np.sign(out), np.sign(volume))


def test_slices_are_read_one_by_one_and_not_kept() -> None:
    volume, _, _ = phantom()
    plain = stack_of(volume)
    asked: list[int] = []

    def read(number: int) -> FloatArray:
        asked.append(number)
        return plain.read(number)

    stack = Stack(20, 80, 72, (1.5, 1.5), "", (0.0, 4095.0), read)
    result = correct_bias(stack, 3.0)
    assert asked == list(range(20))
    result.read(7)
    assert asked[20:] == [7]
    assert (result.unit, result.full_range, result.count) == ("", (0.0, 4095.0), 20)


def test_voxels_that_are_not_finite_and_slices_that_fail() -> None:
    volume, _, _ = phantom()
    volume[3, 40, 40], volume[4, 40, 40] = np.nan, np.inf
    out = correct_bias(stack_of(volume), 3.0)
    assert np.isnan(out.read(3)[40, 40])
    assert np.isfinite(np.delete(out.read(3).ravel(), 40 * 72 + 40)).all()

    def read(number: int) -> FloatArray:
        if number in (4, 7):
            raise ImageError("it is truncated")
        return np.asarray(volume[number], dtype=np.float32)

    out = correct_bias(Stack(20, 80, 72, (1.5, 1.5), "", (0.0, 1.0), read), 3.0)
    assert np.isfinite(out.read(5)).all()
    with pytest.raises(ImageError, match="truncated"):
        out.read(4)
