"""Noise of the target's kind: its level against what was put in."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medxlate.method.noise import noise_level, with_noise_of
from medxlate.phantoms.anatomy import draw_anatomy, render


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def smooth(count: int, size: int = 64) -> torch.Tensor:
    """Images [N, 1, S, S] of gentle slopes, within the window."""
    grid = torch.linspace(-1, 1, size)
    tilt = torch.linspace(-0.4, 0.4, count).view(-1, 1, 1, 1)
    return tilt * grid.view(1, 1, -1, 1) + 0.1 * torch.sin(3 * grid).view(1, 1, 1, -1)


@pytest.mark.parametrize("sigma", [0.02, 0.05, 0.1])
def test_the_level_is_what_was_put_in(sigma: float):
    images = smooth(8)
    noisy = images + sigma * torch.randn_like(images)
    assert noise_level(images).max() < 1e-3
    for level in noise_level(noisy):
        assert level.item() == pytest.approx(sigma, rel=0.1)


def test_the_level_of_a_head_is_its_scanners():
    """Generated CT slices of 120 HU: noise of 4 to 8 HU, edges of a skull all around."""
    found = []
    for seed in range(12):
        random = np.random.default_rng(seed)
        anatomy = draw_anatomy(random, age=60)
        pixels = render(anatomy, "ct", 0.4, size=64, rng=random)
        image = torch.tensor((pixels - 40) / 60).clamp(-1, 1)
        found.append(noise_level(image.view(1, 1, 64, 64)).item() * 60)
    assert 3.5 < min(found) < max(found) < 10
    assert 5 < np.mean(found) < 8.5


def test_translations_get_noise_of_real_images_level_and_keep_what_they_show():
    real, fakes = smooth(16) + 0.08 * torch.randn(16, 1, 64, 64), smooth(16)
    noisy = with_noise_of(fakes, real)
    assert noise_level(noisy).mean().item() == pytest.approx(0.08, rel=0.1)
    added = noisy - fakes
    assert added.mean().abs() < 0.002
    assert added.std().item() == pytest.approx(0.08, rel=0.1)
    assert abs(np.corrcoef(added.flatten(), fakes.flatten())[0, 1]) < 0.02


def test_quiet_images_and_what_the_window_cuts_off_stay():
    quiet, loud = smooth(4), smooth(4) + 0.1 * torch.randn(4, 1, 64, 64)
    assert torch.allclose(with_noise_of(loud, quiet), loud.clamp(-1, 1), atol=1e-3)
    fakes = smooth(4)
    fakes[:, :, :8], fakes[:, :, -8:] = -1.0, 1.0  # air, bone
    noisy = with_noise_of(fakes, loud)
    assert torch.equal(noisy[:, :, :8], fakes[:, :, :8])
    assert torch.equal(noisy[:, :, -8:], fakes[:, :, -8:])
    assert noisy.abs().max() <= 1
    blank = torch.full((4, 1, 64, 64), -1.0)  # no tissue to take a level from
    assert torch.equal(with_noise_of(smooth(4), blank), smooth(4))


def test_gradients_come_through_as_if_nothing_was_added():
    fakes = smooth(2).requires_grad_()
    weights = torch.randn(2, 1, 64, 64)
    (with_noise_of(fakes, smooth(2) + 0.1 * torch.randn(2, 1, 64, 64)) * weights).sum().backward()
    assert torch.equal(fakes.grad, weights)
