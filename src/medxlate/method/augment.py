"""The augmentations that the paper compares with (section 4.3), on grey images.

Random numbers come from torch's global CPU generator, wherever the images are: a training that
goes on from that generator's state draws what it would have drawn.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as functional
from torchvision.transforms import v2

from medxlate.base.errors import ConfigError, nearest
from medxlate.base.grey_levels import from_stored_tensor, to_stored_tensor
from medxlate.config import AugmentConfig

TRIES = 10  # to draw a rectangle that fits
LEFT_OUT = ("Invert", "Solarize", "Posterize")  # of AutoAugment; see there

# Takes images [B, 1, S, S], float32 in [-1, 1], and returns as many, on the same device, each
# after a random draw of its own. What lies outside an image is background, -1. No gradient flows.
Augmentation = Callable[[Tensor], Tensor]


def build_augmentation(name: str, config: AugmentConfig) -> Augmentation:
    """Return an augmentation by name.

    Raises:
        ConfigError: There is none of that name, or its settings cannot be met.
    """
    if name not in AUGMENTATIONS:
        raise ConfigError(f"Unknown augmentation '{name}'.", nearest(name, AUGMENTATIONS))
    return AUGMENTATIONS[name](config)


class SimpleAugment:
    """Flip, brightness, contrast, crop, turn and shift, in this order.

    Crops are square, so anatomy keeps its proportions. Crop, turn and shift are one bilinear
    resampling, so that the image is blurred once and background comes in only from outside the
    image, not from outside the crop. Brightness scales the distance from -1, contrast that from
    the image's mean, which moves the image's own background too.

    Args:
        config: Settings; those at zero, and a crop of 1, leave the image as it is.
    """

    def __init__(self, config: AugmentConfig) -> None:
        self._config = config
        self._moves = config.crop < 1 or config.rotate > 0 or config.shift > 0

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Return an augmented copy of images [B, 1, S, S] in [-1, 1]."""
        # The number of draws does not depend on the settings.
        draws = torch.rand(len(images), 9)
        flip, signed = draws[:, 0] < self._config.flip, 2 * draws[:, 1:] - 1
        factors = 1 + self._config.jitter * signed[:, :2]
        flip, factors, moves = (
            there(drawn, images.device) for drawn in (flip, factors, self._inverse(signed[:, 2:]))
        )
        factors, moves = factors.to(images.dtype), moves.to(images.dtype)
        light, contrast = factors.T[:, :, None, None, None]
        grey = (images + 1) / 2  # above background
        grey = torch.where(flip[:, None, None, None], grey.flip(-1), grey)
        grey = (grey * light).clamp(0, 1)
        mean = grey.mean((1, 2, 3), keepdim=True)
        grey = (contrast * grey + (1 - contrast) * mean).clamp(0, 1)
        if self._moves:
            grid = functional.affine_grid(moves, list(grey.shape), align_corners=False)
            grey = functional.grid_sample(grey, grid, padding_mode="zeros", align_corners=False)
        return grey * 2 - 1

    def _inverse(self, signed: Tensor) -> Tensor:
        """Return where each pixel of the result comes from: matrices [B, 2, 3].

        Args:
            signed: [B, 6], draws from [-1, 1): area and centre of the crop, turn, shift right and
                down. Lengths are in half sides, from the image's centre.
        """
        area, centre, turn, shift = signed[:, 0], signed[:, 1:3], signed[:, 3], signed[:, 4:]
        side = (1 - (1 - self._config.crop) * (area + 1) / 2).sqrt()
        angle = torch.deg2rad(self._config.rotate * turn)
        cos, sin = side * angle.cos(), side * angle.sin()
        back = torch.stack([torch.stack([cos, sin], -1), torch.stack([-sin, cos], -1)], 1)
        centre = (1 - side)[:, None] * centre
        # The crop's centre goes to the image's centre, and on by the shift.
        offset = centre - (back @ (2 * self._config.shift * shift)[:, :, None])[:, :, 0]
        return torch.cat([back, offset[:, :, None]], 2)


class AutoAugment:
    """The policy that AutoAugment found for ImageNet (Cubuk et al. 2018), for grey medical images.

    The policy is defined on 8 bits, so images are rounded to 256 levels. They stay one channel:
    saturation, the only operation on colour, then does nothing, whereas it and contrast would
    move three equal channels by a level, since the weights of luma add up to 0.9999.

    Inverting, solarizing and posterizing are left out: where the policy draws one of them, nothing
    is done in its place. Grey levels stand for tissue. The first two turn air bright and bone dark,
    which no scanner does, and the third leaves a few levels, without the contrast of soft tissue.
    """

    def __init__(self, config: AugmentConfig) -> None:
        self._policy = _Policy(v2.AutoAugmentPolicy.IMAGENET, fill=0)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Return an augmented copy of images [B, 1, S, S] in [-1, 1]."""
        levels = to_stored_tensor(images)
        drawn = [self._policy.draw(levels.shape[1:]) for _ in range(len(levels))]
        for turn in range(max((len(operations) for operations in drawn), default=0)):
            alike: dict[_Operation, list[int]] = {}  # and applied to all of them at once
            for i, operations in enumerate(drawn):
                if turn < len(operations):
                    alike.setdefault(operations[turn], []).append(i)
            for operation, numbers in alike.items():
                chosen = there(torch.tensor(numbers), levels.device)
                levels[chosen] = self._policy.apply(operation, levels[chosen])
        return from_stored_tensor(levels).to(images.dtype)


_Operation = tuple[str, float]  # its name and strength


class _Policy(v2.AutoAugment):  # type: ignore[misc]
    """torchvision's policy, with what it draws apart from what is done."""

    def draw(self, shape: torch.Size) -> list[_Operation]:
        """Draw what is done to an image [1, S, S], in this order."""
        self._drawn: list[_Operation] = []
        self(torch.empty(shape, dtype=torch.uint8, device="meta"))
        return self._drawn

    def apply(self, operation: _Operation, levels: Tensor) -> Tensor:
        """Return uint8 images [N, 1, S, S] after an operation."""
        changed: Tensor = super()._apply_image_or_video_transform(
            levels, *operation, interpolation=self.interpolation, fill=self._fill
        )
        return changed

    def _apply_image_or_video_transform(
        self, image: Tensor, transform_id: str, magnitude: float, **_: Any
    ) -> Tensor:
        if transform_id not in LEFT_OUT:
            self._drawn.append((transform_id, magnitude))
        return image


class RandomErasing:
    """A rectangle of each image is replaced by random values (Zhong et al. 2020).

    As there, every pixel gets a value of its own, evenly spread over the whole range. The
    logarithm of the rectangle's height over its width is evenly spread. A rectangle that does not
    fit is drawn again, up to nine times; then the image stays as it is.

    Raises:
        ConfigError: No rectangle of this share and ratio fits into a square.
    """

    def __init__(self, config: AugmentConfig) -> None:
        smallest, largest = config.erase_area
        narrowest, widest = config.erase_ratio
        if largest > 1:
            raise ConfigError(
                f"augment.erase_area goes up to {largest:g}, which exceeds the whole image.",
                "Set its upper limit to 1 or less.",
            )
        if smallest == 1 or widest <= smallest or narrowest >= 1 / smallest:
            raise ConfigError(
                f"No patch of augment.erase_area {smallest:g} and augment.erase_ratio "
                f"{narrowest:g} to {widest:g} fits into the image.",
                "Set a smaller area, or a ratio closer to 1.",
            )
        self._chance = config.erase
        self._area = config.erase_area
        self._log_ratio = (math.log(narrowest), math.log(widest))

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Return an augmented copy of images [B, 1, S, S] in [-1, 1]."""
        count, _, size, _ = images.shape
        ends = self._rectangles(count, size)
        rows, columns = (
            (torch.arange(size) >= start) & (torch.arange(size) < end) for start, end in ends
        )
        inside = rows[:, :, None] & columns[:, None, :]
        values = torch.rand(images.shape, device="cpu") * 2 - 1
        erased, values = there(inside[:, None], images.device), there(values, images.device)
        return torch.where(erased, values.to(images.dtype), images)

    def _rectangles(self, count: int, size: int) -> tuple[tuple[Tensor, Tensor], ...]:
        """Draw where rows and columns of each rectangle begin and end [count, 1]; 0, 0: nowhere."""
        draws = torch.rand(count, 1 + TRIES, 4)
        (least, most), (narrow, wide) = self._area, self._log_ratio
        area = size**2 * (least + (most - least) * draws[:, 1:, 0])
        ratio = torch.exp(narrow + (wide - narrow) * draws[:, 1:, 1])
        height, width = (area * ratio).sqrt().round(), (area / ratio).sqrt().round()
        fits = (height < size) & (width < size)
        first = fits.int().argmax(1, keepdim=True)
        happens = fits.any(1, keepdim=True) & (draws[:, :1, 0] < self._chance)
        ends = []
        for lengths, place in ((height, draws[:, 1:, 2]), (width, draws[:, 1:, 3])):
            start = (place * (size - lengths + 1)).floor().minimum(size - lengths)
            start, length = start.gather(1, first), lengths.gather(1, first) * happens
            ends.append((start, start + length))
        return tuple(ends)


def there(drawn: Tensor, device: torch.device) -> Tensor:
    """Return what was drawn on the device; the host does not wait for the copy."""
    if device.type == "cuda":
        drawn = drawn.pin_memory()
    return drawn.to(device, non_blocking=True)


AUGMENTATIONS: dict[str, Callable[[AugmentConfig], Augmentation]] = {
    "simple-augment": SimpleAugment,
    "autoaugment": AutoAugment,
    "random-erasing": RandomErasing,
}
