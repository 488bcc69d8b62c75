"""What is done to translations before the predictor sees them, against closed forms."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from medxlate.config import ObjectiveConfig
from medxlate.method.fakes import for_predictor, rescaled
from medxlate.method.noise import noise_level

SIZE, WIDTH = 64, 8.0


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def blobs(count: int, width: float | Tensor = WIDTH) -> Tensor:
    """Gaussians [N, 1, S, S] around the centre, of this standard deviation in pixels, on black."""
    along = torch.arange(SIZE) - (SIZE - 1) / 2
    squared = (along[:, None] ** 2 + along[None] ** 2).expand(count, 1, SIZE, SIZE)
    width = torch.as_tensor(width).expand(count).view(-1, 1, 1, 1)
    return 1.5 * torch.exp(-squared / (2 * width**2)) - 1


def widths(images: Tensor) -> Tensor:
    """The standard deviations of such Gaussians [N], by the volume under them."""
    return ((images + 1).sum(dim=(1, 2, 3)) / (1.5 * 2 * torch.pi)).sqrt()


def test_a_gaussian_becomes_a_wider_or_narrower_gaussian_in_its_place():
    """g(r / f) is the Gaussian whose width is f times as large."""
    moved = rescaled(blobs(200), 0.1)
    factors = widths(moved) / WIDTH
    torch.testing.assert_close(moved, blobs(200, factors * WIDTH), atol=0.01, rtol=0)
    assert 0.9 <= factors.min() < 0.92
    assert 1.08 < factors.max() <= 1.1
    assert factors.mean().item() == pytest.approx(1, abs=0.02)


def test_black_stays_black_and_nothing_leaves_the_window():
    images = torch.where(blobs(20) > -0.5, 1.0, -1.0)
    moved = rescaled(images, 0.2)
    assert moved.min() == -1
    assert moved.max() == 1
    assert (moved[:, :, 0] == -1).all()
    assert torch.equal(rescaled(-torch.ones(3, 1, 8, 8), 0.3), -torch.ones(3, 1, 8, 8))


def test_gradients_go_back_through_the_rescaling():
    """Interpolation weights of a pixel add up to 1, so that the sum of gradients stays near N."""
    images = blobs(4).requires_grad_()
    rescaled(images, 0.05).sum().backward()
    assert images.grad is not None
    centre = images.grad[:, :, 16:48, 16:48]
    assert 0.85 < centre.mean() < 1.15


def test_noise_comes_after_the_rescaling_which_would_smooth_it():
    real = 0.1 * torch.randn(8, 1, SIZE, SIZE)
    objective = ObjectiveConfig(noise="target", rescale=0.1)
    slopes = torch.linspace(-0.4, 0.4, SIZE).view(1, 1, 1, SIZE).expand(8, 1, SIZE, SIZE)
    shown = for_predictor(slopes, real, objective)
    assert noise_level(shown).mean().item() == pytest.approx(0.1, rel=0.1)
    smoothed = rescaled(slopes + real, 0.1)
    assert noise_level(smoothed).mean() < 0.09


def test_by_default_translations_stay_as_they_are():
    images = torch.randn(2, 1, 8, 8)
    assert for_predictor(images, torch.randn(2, 1, 8, 8), ObjectiveConfig()) is images
