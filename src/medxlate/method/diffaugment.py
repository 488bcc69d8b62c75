"""DiffAugment (Zhao et al. 2020, "Differentiable Augmentation for Data-Efficient GAN Training").

With few images a discriminator learns them by heart. Here it sees every image, real or translated,
in training G and in training D, changed by chance in ways through which gradients flow. The
translations themselves are not changed, so what the changes do cannot leak into them.

Images are [B, 1, S, S] in [-1, 1]; what is drawn comes from torch's generator of their device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

SHIFT = 1 / 8  # longest translation, share of the side
BLACK = -1.0
HOLE = 1 / 2  # side of what cutout takes away, share of the side


def diffaugment(images: Tensor, policy: Sequence[str]) -> Tensor:
    """Return images changed by each part of the policy, each image by other draws.

    Args:
        images: [B, 1, S, S].
        policy: Names in ``CHANGES``.
    """
    for name in policy:
        images = CHANGES[name](images)
    return images


def brightness(images: Tensor) -> Tensor:
    """Add a number from [-0.5, 0.5] to each image."""
    return images + (_uniform(images) - 0.5)


def contrast(images: Tensor) -> Tensor:
    """Scale each image around its mean by a factor from [0.5, 1.5]."""
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return (images - mean) * (_uniform(images) + 0.5) + mean


def translation(images: Tensor) -> Tensor:
    """Shift each image by up to an eighth of its side, by whole pixels; black (-1) comes in.

    The publication's zeros are the grey of its images' middle; around a head they would be an edge.
    """
    down, right = (round(size * SHIFT) for size in images.shape[2:])
    padded = F.pad(images, (right, right, down, down), value=BLACK)
    rows = _window(images, images.shape[2], down).unsqueeze(2)
    columns = _window(images, images.shape[3], right).unsqueeze(1)
    image = torch.arange(len(images), device=images.device).view(-1, 1, 1)
    return padded[image, :, rows, columns].permute(0, 3, 1, 2)  # from [B, H, W, C]


def cutout(images: Tensor) -> Tensor:
    """Set a square of half the side, wholly or partly inside each image, to zero."""
    masks = []
    for size in images.shape[2:]:
        side = int(size * HOLE + 0.5)
        places = size + 1 - side % 2
        centre = torch.randint(0, places, (len(images), 1), device=images.device)
        along = torch.arange(size, device=images.device)
        masks.append((along >= centre - side // 2) & (along < centre - side // 2 + side))
    hole = masks[0].unsqueeze(2) & masks[1].unsqueeze(1)
    return images * ~hole.unsqueeze(1)


def _window(images: Tensor, size: int, reach: int) -> Tensor:
    """Draw for each image which rows or columns of the padded one it shows, [B, size]."""
    first = torch.randint(0, 2 * reach + 1, (len(images), 1), device=images.device)
    return first + torch.arange(size, device=images.device)


def _uniform(images: Tensor) -> Tensor:
    """Draw a number in [0, 1) for each image, [B, 1, 1, 1]."""
    return torch.rand(len(images), 1, 1, 1, device=images.device, dtype=images.dtype)


CHANGES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "brightness": brightness,
    "contrast": contrast,
    "translation": translation,
    "cutout": cutout,
}
