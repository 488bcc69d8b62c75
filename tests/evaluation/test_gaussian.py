"""Moments in one pass, and the Fréchet distance, against closed forms, numpy, scipy and others."""

from __future__ import annotations

import itertools
import tracemalloc
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
import scipy.linalg
import torch
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

from medxlate.base.errors import DataError
from medxlate.evaluation.gaussian import Gaussian, Moments, frechet_distance

Rows = npt.NDArray[np.float64]
WIDTH = 24


def some_rows(count: int, seed: int, *, shift: float = 0.0, width: int = WIDTH) -> Rows:
    """Return rows whose columns depend on each other and differ in scale."""
    random = np.random.default_rng(seed)
    mixed = random.standard_normal((count, width)) @ random.standard_normal((width, width))
    return mixed * np.geomspace(0.1, 3, width) + shift


def moments(rows: Rows, sizes: Sequence[int] = (7,)) -> Moments:
    found = Moments(rows.shape[1])
    start = 0
    for size in itertools.cycle(sizes):
        if start >= len(rows):
            return found
        found.add(rows[start : start + size])
        start += size
    raise AssertionError


def distance(one: Rows, other: Rows) -> float:
    return frechet_distance(moments(one).gaussian(), moments(other).gaussian())


@pytest.mark.parametrize("count", [2, WIDTH - 1, WIDTH, WIDTH + 1, 1500])
@pytest.mark.parametrize("sizes", [(1,), (5, 17, 90), (5000,)])
def test_streaming_is_the_same_as_all_at_once(count: int, sizes: Sequence[int]) -> None:
    rows = some_rows(count, 1, shift=1000.0)
    found = moments(rows, sizes)
    assert found.count == count
    expected = np.cov(rows, rowvar=False)
    largest = np.abs(expected).max()
    np.testing.assert_allclose(found.mean, rows.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.covariance(), expected, atol=1e-10 * largest)
    factor = moments(rows, sizes).gaussian().factor
    np.testing.assert_allclose(factor.T @ factor, expected, atol=1e-10 * largest)


def test_digits_are_not_lost_where_the_mean_is_far_from_zero() -> None:
    rows = some_rows(900, 2)
    found = moments(rows + 1e6).covariance()
    expected = np.cov(rows, rowvar=False)
    np.testing.assert_allclose(found, expected, atol=1e-8 * np.abs(expected).max())


@pytest.mark.parametrize("counts", [(5, 6), (5, 300), (300, 5), (200, 300), (0, 300), (300, 0)])
def test_merged_parts_are_the_whole(counts: tuple[int, int]) -> None:
    rows = some_rows(sum(counts), 3, shift=5.0)
    rows[counts[0] :] += 40.0
    one, other = moments(rows[: counts[0]]), moments(rows[counts[0] :])
    one.merge(other)
    assert (one.count, other.count) == (sum(counts), counts[1])
    expected = np.cov(rows, rowvar=False)
    np.testing.assert_allclose(one.mean, rows.mean(0), rtol=1e-12)
    np.testing.assert_allclose(one.covariance(), expected, atol=1e-10 * np.abs(expected).max())


def test_distance_of_diagonal_gaussians_is_the_closed_form() -> None:
    random = np.random.default_rng(4)
    means, scales = random.normal(size=(2, WIDTH)), random.uniform(0.01, 3, (2, WIDTH))
    exact = ((means[0] - means[1]) ** 2).sum() + ((scales[0] - scales[1]) ** 2).sum()
    one, other = (Gaussian(m, np.diag(s)) for m, s in zip(means, scales, strict=True))
    assert frechet_distance(one, other) == pytest.approx(exact, rel=1e-12)
    # The same from rows: a step to either side along each axis has a diagonal covariance.
    steps = np.concatenate([np.eye(WIDTH), -np.eye(WIDTH)]) * np.sqrt((2 * WIDTH - 1) / 2)
    found = distance(steps * scales[0] + means[0], steps * scales[1] + means[1])
    assert found == pytest.approx(exact, rel=1e-10)


def test_distance_is_that_of_torch_fidelity_and_of_scipy() -> None:
    a, b = some_rows(400, 5, shift=0.2), some_rows(500, 6)
    found = distance(a, b)
    theirs = fid_statistics_to_metric(
        *(fid_features_to_statistics(torch.from_numpy(rows)) for rows in (a, b)), verbose=False
    )["frechet_inception_distance"]
    assert found == pytest.approx(theirs, rel=1e-6)
    one, other = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = scipy.linalg.sqrtm(one @ other).real
    exact = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(one + other - 2 * root)
    assert found == pytest.approx(exact, rel=1e-9)


@pytest.mark.parametrize("counts", [(9, 14), (14, 9), (9, 300), (300, 9), (24, 25)])
def test_distance_of_few_images_is_right_to_a_millionth(counts: tuple[int, int]) -> None:
    """Against the sum of singular values, which loses no digits; torch-fidelity's does."""
    a, b = some_rows(counts[0], 7), some_rows(counts[1], 8)
    a[:, 3] = b[:, 3] = b[:, 4] = 0  # features that never fire
    one, other = ((x - x.mean(0)) / np.sqrt(len(x) - 1) for x in (a, b))
    roots = np.linalg.svd(one @ other.T, compute_uv=False).sum()
    exact = ((a.mean(0) - b.mean(0)) ** 2).sum() + (one**2).sum() + (other**2).sum() - 2 * roots
    assert distance(a, b) == pytest.approx(exact, rel=1e-6)


@pytest.mark.parametrize("count", [10, 300])
def test_distance_to_itself_is_zero(count: int) -> None:
    rows = some_rows(count, 9)
    assert abs(distance(rows, rows)) < 1e-7 * np.trace(np.cov(rows, rowvar=False))


def test_memory_does_not_grow_with_the_number_of_rows() -> None:
    def peak(count: int) -> int:
        random = np.random.default_rng(0)
        tracemalloc.start()
        found = Moments(128)
        for _ in range(count // 16):
            found.add(random.random((16, 128)))
        found.gaussian()
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    assert peak(16000) < 1.05 * peak(1600)


def test_no_distance_without_two_images_or_finite_features() -> None:
    with pytest.raises(DataError, match="1 images are too few"):
        moments(some_rows(1, 0)).gaussian()
    for count in (10, 300):
        broken = some_rows(count, 0)
        broken[3, 2] = np.nan
        with pytest.raises(DataError, match="finite"):
            distance(broken, some_rows(50, 1))
