"""Figures of sets of features against torch-fidelity, closed forms and simulated studies."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import scipy.linalg
import torch
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kernel_mmd, kernel_poly, kid_features_to_metric

from medxlate.base.errors import DataError
from medxlate.evaluation.fidelity import (
    NAMES,
    Gaussian,
    compare_features,
    deviations,
    frechet_distance,
    gaussian,
    precision_and_recall,
    squared_mmd,
    subset_distance,
)
from medxlate.evaluation.intervals import NORMAL

Rows = npt.NDArray[np.float64]
WIDTH = 24


def some_rows(count: int, seed: int, *, shift: float = 0.0, width: int = WIDTH) -> Rows:
    """Return rows whose columns depend on each other and differ in scale."""
    random = np.random.default_rng(seed)
    mixed = random.standard_normal((count, width)) @ random.standard_normal((width, width))
    return mixed * np.geomspace(0.1, 3, width) + shift


def distance(one: Rows, other: Rows) -> float:
    return frechet_distance(*(gaussian(rows, rows.shape[1]) for rows in (one, other)))


@pytest.mark.parametrize("count", [2, WIDTH - 1, WIDTH, WIDTH + 1, 1500])
def test_mean_and_covariance_are_numpys(count: int) -> None:
    rows = some_rows(count, 1, shift=1000.0)
    found = gaussian(rows, WIDTH)
    expected = np.cov(rows, rowvar=False)
    np.testing.assert_allclose(found.mean, rows.mean(0), rtol=1e-12)
    covariance = found.factor.T @ found.factor
    np.testing.assert_allclose(covariance, expected, atol=1e-10 * np.abs(expected).max())


def test_digits_are_not_lost_where_the_mean_is_far_from_zero() -> None:
    rows = some_rows(900, 2)
    factor = gaussian(rows + 1e6, WIDTH).factor
    expected = np.cov(rows, rowvar=False)
    np.testing.assert_allclose(factor.T @ factor, expected, atol=1e-8 * np.abs(expected).max())


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


@pytest.mark.parametrize("counts", [(9, 14), (14, 9), (9, 300), (300, 9), (24, 25), (300, 400)])
def test_distance_is_right_where_covariances_have_no_full_rank(counts: tuple[int, int]) -> None:
    """Against eigenvalues in 60 digits: torch-fidelity's general solver loses them."""
    mpmath = pytest.importorskip("mpmath")
    a, b = some_rows(counts[0], 7, width=12), some_rows(counts[1], 8, width=12)
    a[:, 3] = b[:, 3] = b[:, 4] = 0  # features that never fire
    with mpmath.workdps(60):
        one, other = (covariance(mpmath, rows) for rows in (a, b))
        eigenvalues = mpmath.eig(one * other, left=False, right=False)
        roots = sum(mpmath.sqrt(max(mpmath.re(x), 0)) for x in eigenvalues)
        traces = sum(one[i, i] + other[i, i] for i in range(12))
        exact = float(((a.mean(0) - b.mean(0)) ** 2).sum() + traces - 2 * roots)
    assert distance(a, b) == pytest.approx(exact, rel=1e-9)


def covariance(mpmath: Any, rows: Rows) -> Any:
    centred = mpmath.matrix((rows - rows.mean(0)).tolist())
    return centred.T * centred / (len(rows) - 1)


@pytest.mark.parametrize("count", [10, 300])
def test_distance_to_itself_is_zero(count: int) -> None:
    rows = some_rows(count, 9)
    assert abs(distance(rows, rows)) < 1e-7 * np.trace(np.cov(rows, rowvar=False))


def test_memory_does_not_grow_with_the_number_of_rows() -> None:
    class Generated:
        """Features that are made when they are asked for."""

        def __init__(self, count: int) -> None:
            self.count = count

        def __len__(self) -> int:
            return self.count

        def __getitem__(self, rows: npt.NDArray[np.intp], /) -> Rows:
            return np.random.default_rng(rows[0]).random((len(rows), 128))

    def peak(count: int) -> int:
        tracemalloc.start()
        gaussian(Generated(count), 128)
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    assert peak(16000) < 1.05 * peak(1600)


def test_no_distance_without_two_images_or_finite_features() -> None:
    with pytest.raises(DataError, match="1 images are too few"):
        gaussian(some_rows(1, 0), WIDTH)
    for count in (10, 300):
        broken = some_rows(count, 0)
        broken[3, 2] = np.nan
        with pytest.raises(DataError, match="finite"):
            distance(broken, some_rows(50, 1))


def test_kid_and_is_are_those_of_torch_fidelity() -> None:
    random = np.random.default_rng(0)
    one, other = (random.normal(size=(n, 13)).astype(np.float32) for n in (1300, 1100))
    found = compare_features(one, other, ["kid", "is"], width=8, has_classes=True)
    a, b = map(torch.from_numpy, (one, other))
    kid = kid_features_to_metric(a[:, :8], b[:, :8], kid_subset_size=1000, verbose=False)
    assert found["kid"] == pytest.approx(kid["kernel_inception_distance_mean"], rel=1e-6)
    score = isc_features_to_metric(a[:, 8:])
    assert found["is"] == pytest.approx(score["inception_score_mean"], rel=1e-12)


def test_mmd_of_equal_numbers_is_torch_fidelitys() -> None:
    a, b = some_rows(30, 1), some_rows(30, 2, shift=0.1)
    kernels = [kernel_poly(x, y) for x, y in ((a, a), (b, b), (a, b))]
    assert squared_mmd(*kernels) == pytest.approx(kernel_mmd(a, b), rel=1e-9)


def test_mmd_of_unequal_numbers_is_the_sum_over_pairs() -> None:
    a, b = some_rows(4, 1, width=3), some_rows(6, 2, width=3)

    def kernel(x: Rows, y: Rows) -> float:
        return (float(x @ y) / 3 + 1) ** 3

    within = [
        np.mean([kernel(x, y) for i, x in enumerate(rows) for j, y in enumerate(rows) if i != j])
        for rows in (a, b)
    ]
    between = np.mean([kernel(x, y) for x in a for y in b])
    found = squared_mmd(*(kernel_poly(x, y) for x, y in ((a, a), (b, b), (a, b))))
    assert found == pytest.approx(sum(within) - 2 * between)


def test_precision_and_recall_are_shares_of_points_within_spheres() -> None:
    fakes, reals = some_rows(25, 1), some_rows(31, 2, shift=0.3)

    def share(points: Rows, centres: Rows) -> float:
        radii = [sorted(np.linalg.norm(centres - each, axis=1))[3] for each in centres]
        held = [(np.linalg.norm(centres - point, axis=1) <= radii).any() for point in points]
        return float(np.mean(held))

    found = precision_and_recall(fakes, reals)
    assert found == {"precision": share(fakes, reals), "recall": share(reals, fakes)}


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """Images of a patient are alike, and the sets differ in size: 60 studies of 20 and 30."""
    random = np.random.default_rng(0)

    def patients(people: int, shift: float) -> tuple[npt.NDArray[np.float32], list[str]]:
        center = np.repeat(random.normal(0, 1, (people, 12)), 4, axis=0)
        rows = center + random.normal(shift, 0.6, (people * 4, 12))
        return rows.astype(np.float32), [f"p{i // 4}" for i in range(people * 4)]

    names = ["fid", "precision", "recall"]
    values, spreads = [], []
    for _ in range(60):
        (fakes, one), (reals, other) = patients(20, 0.0), patients(30, 0.3)
        found = compare_features(fakes, reals, names, width=12, has_classes=False)
        kid = squared_mmd(
            *(kernel_poly(x, y) for x, y in ((fakes, fakes), (reals, reals), (fakes, reals)))
        )
        values.append([*found.values(), kid])
        spread = deviations(fakes, reals, (one, other), [*names, "kid"], width=12)
        spreads.append([each or 0.0 for each in spread.values()])
    apart = np.abs(np.array(values) - np.mean(values, axis=0))
    held = (apart <= NORMAL * np.array(spreads)).mean(axis=0)
    assert (held >= 0.88).all(), held
    assert (np.mean(spreads, axis=0) / np.std(values, axis=0) < 1.6).all()


def test_too_few_images_have_no_deviation_but_is_needs_no_real_ones() -> None:
    rows = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)
    enough = np.random.default_rng(1).normal(size=(36, 8)).astype(np.float32)
    few, many = ["p", "p", "q", "q"], list("abcdefghi") * 4
    found = deviations(rows, enough, (few, many), NAMES, width=5)
    assert set(found.values()) == {None}
    found = deviations(enough, rows, (many, few), NAMES, width=5)
    assert [name for name, each in found.items() if each is not None] == ["is"]


@pytest.mark.parametrize("width", [5, 300])
def test_the_distance_of_subsets_is_that_of_their_gaussians(width: int) -> None:
    """With more images than features, and with fewer."""
    random = np.random.default_rng(width)
    one = random.normal(3, 2, (60, width)).astype(np.float32)
    other = random.normal(5, 1, (50, width)).astype(np.float32)
    distance = subset_distance(one, other)
    for _ in range(4):
        p, q = (
            np.sort(random.choice(len(each), 40, replace=False)).astype(np.intp)
            for each in (one, other)
        )
        wanted = frechet_distance(gaussian(one[p], width), gaussian(other[q], width))
        assert distance(p, q) == pytest.approx(wanted, rel=1e-9)
