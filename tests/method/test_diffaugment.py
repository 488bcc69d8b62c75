"""DiffAugment: each change against numpy, its gradient, and what it leaves alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medxlate.method.diffaugment import CHANGES, diffaugment

SIZE = 32


def images(count: int = 64, seed: int = 0) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.rand(count, 1, SIZE, SIZE, generator=random, dtype=torch.float64) * 2 - 1


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(3)


def test_brightness_adds_one_number_to_each_image():
    before = images()
    added = (diffaugment(before, ["brightness"]) - before).numpy()
    assert np.ptp(added, axis=(1, 2, 3)).max() < 1e-12
    numbers = added[:, 0, 0, 0]
    assert np.abs(numbers).max() <= 0.5
    assert len(np.unique(numbers.round(9))) == len(before)
    assert numbers.std() == pytest.approx(1 / 12**0.5, rel=0.25)  # uniform, of width 1


def test_contrast_scales_each_image_around_its_own_mean():
    before = images() + 0.3
    after = diffaugment(before, ["contrast"])
    old, new = before.numpy()[:, 0], after.numpy()[:, 0]
    np.testing.assert_allclose(new.mean((1, 2)), old.mean((1, 2)), atol=1e-12)
    factors = new.std((1, 2)) / old.std((1, 2))
    assert 0.5 <= factors.min() < 0.65
    assert 1.35 < factors.max() <= 1.5
    wanted = (old - old.mean((1, 2), keepdims=True)) * factors[:, None, None]
    np.testing.assert_allclose(new - new.mean((1, 2), keepdims=True), wanted, atol=1e-12)


def test_translation_shifts_by_whole_pixels_and_black_comes_in():
    before, seen = images(256), set()
    after = diffaugment(before, ["translation"])
    reach = SIZE // 8
    for old, new in zip(before.numpy()[:, 0], after.numpy()[:, 0], strict=True):
        padded = np.pad(old, reach, constant_values=-1)
        places = [
            (down, right)
            for down in range(2 * reach + 1)
            for right in range(2 * reach + 1)
            if np.array_equal(padded[down : down + SIZE, right : right + SIZE], new)
        ]
        assert len(places) == 1
        seen.add(places[0])
    assert {down for down, _ in seen} == set(range(2 * reach + 1)) == {right for _, right in seen}


def test_cutout_takes_a_square_of_half_the_side_that_may_reach_over_the_border():
    after = diffaugment(torch.ones(512, 1, SIZE, SIZE), ["cutout"]).numpy()[:, 0]
    assert set(np.unique(after)) == {0, 1}
    sides = set()
    for image in after:
        rows, columns = (np.flatnonzero((image == 0).any(axis)) for axis in (1, 0))
        assert not image[np.ix_(rows, columns)].any()
        assert (image == 0).sum() == len(rows) * len(columns)
        sides |= {len(rows), len(columns)}
    assert max(sides) == SIZE // 2
    assert min(sides) == SIZE // 4  # centred on the border
    assert not after.all(axis=0).any()  # every pixel can be taken


@pytest.mark.parametrize("name", CHANGES)
def test_gradients_flow_through(name: str):
    """Each change is linear in an image: central differences agree with the gradient."""
    before = images(2).requires_grad_()
    direction, weights = images(2, seed=1), images(2, seed=2)

    def value(at: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(5)  # the same draws
        return (diffaugment(at, [name]) * weights).sum()

    value(before).backward()
    assert before.grad is not None
    step = 1e-4
    with torch.no_grad():
        slope = (value(before + step * direction) - value(before - step * direction)) / (2 * step)
    assert slope.item() == pytest.approx((before.grad * direction).sum().item(), rel=1e-6)


def test_no_policy_changes_nothing_and_draws_nothing():
    before, state = images(), torch.get_rng_state()
    assert diffaugment(before, ()) is before
    assert torch.equal(torch.get_rng_state(), state)
