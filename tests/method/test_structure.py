"""MIND against a plain loop, and what it is blind to."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medxlate.method.structure import mind, structure_loss
from medxlate.phantoms.anatomy import draw_anatomy, render

# Rows and columns to the pixels beside one, by whose patches the variance is taken, and to others.
BESIDE = [(0, -1), (-1, 0), (0, 1), (1, 0)]
DIAGONAL = [(-2, -2), (2, -2), (-2, 2), (2, 2)]


def by_hand(image: np.ndarray) -> np.ndarray:
    """Return the descriptors [8, S, S] of an image by the publication's equations, in loops.

    Beyond a border lies the opposite one; of a patch, what lies within the image is compared.
    """
    size = len(image)
    found = np.zeros((8, size, size))
    for row in range(size):
        for column in range(size):
            distances = []
            for down, right in BESIDE + DIAGONAL:
                total = 0.0
                for r in range(max(row - 1, 0), min(row + 2, size)):
                    for c in range(max(column - 1, 0), min(column + 2, size)):
                        total += (image[r, c] - image[(r + down) % size, (c + right) % size]) ** 2
                distances.append(total / 9)
            variance = max(np.mean(distances[:4]), 2e-3)
            found[:, row, column] = np.exp(-np.asarray(distances) / variance)
    return found


@pytest.mark.parametrize("contrast", [1.0, 0.02], ids=["varied", "flat"])
def test_the_descriptors_are_the_publications(contrast: float):
    random = torch.rand(1, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    image = contrast * (2 * random.double() - 1)
    ours, wanted = mind(image)[0].numpy(), by_hand(image[0, 0].numpy())
    np.testing.assert_allclose(ours, wanted, rtol=1e-9)


def head(modality: str, seed: int, age: float = 60) -> torch.Tensor:
    random = np.random.default_rng(seed)
    low, high = {"ct": (-20, 100), "mri": (0, 2400)}[modality]
    pixels = render(draw_anatomy(random, age=age), modality, 0.4, size=64, rng=random)
    return torch.tensor(np.clip((pixels - low) / (high - low), 0, 1) * 2 - 1).view(1, 1, 64, 64)


def test_grey_values_may_change_and_anatomy_may_not():
    """An inverted image shows the same; another head, or a moved one, does not."""
    image = head("mri", 1)
    loss = {
        "itself": structure_loss(image, image),
        "inverted": structure_loss(-image, image),
        "moved": structure_loss(torch.roll(image, 2, 3), image),
        "another": structure_loss(head("mri", 2), image),
    }
    assert loss["itself"] == loss["inverted"] == 0
    assert min(loss["moved"], loss["another"]) > 0.1


def test_two_modalities_of_one_head_are_nearer_than_two_heads():
    same = np.mean([float(structure_loss(head("ct", s), head("mri", s))) for s in range(6)])
    other = np.mean([float(structure_loss(head("ct", s), head("mri", s + 1))) for s in range(6)])
    assert same < other


def test_it_teaches():
    """Descent from noise on a head's descriptors brings the head's edges back."""
    wanted = head("mri", 1).double()
    image = (0.3 * torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))).double()
    image.requires_grad_()
    optimizer = torch.optim.Adam([image], 0.05)
    losses = []
    for _ in range(60):
        loss = (mind(image) - mind(wanted)).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]
    assert image.grad is not None
    assert bool(torch.isfinite(image.grad).all())


def test_noise_alone_is_not_described():
    quiet = 0.01 * torch.randn(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    assert structure_loss(quiet, quiet.flip(0)).item() < 0.06
    assert structure_loss(30 * quiet, 30 * quiet.flip(0)).item() > 0.1


@pytest.mark.parametrize("size", [8, 33])
def test_any_size_goes(size: int):
    assert mind(torch.zeros(2, 1, size, size)).shape == (2, 8, size, size)
