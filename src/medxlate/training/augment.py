"""The augmentations that the paper compares with (section 4.3), on grey images.

Random numbers come from torch's global CPU generator, wherever the images are: a training that
goes on from that generator's state draws what it would have drawn.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from medxlate.config import AugmentConfig
from medxlate.errors import ConfigError, nearest

# Takes images [B, 1, S, S], float32 in [-1, 1], and returns as many, on the same device, each
# after a random draw of its own. What lies outside an image is background, -1. No gradient flows.
Augmentation = Callable[[Tensor], Tensor]


def build_augmentation(name: str, config: AugmentConfig) -> Augmentation:
    """Return an augmentation by name.

    Raises:
        ConfigError: There is none of that name, or its settings cannot be met.
    """
    if name not in AUGMENTATIONS:
        raise ConfigError(f"There is no augmentation '{name}'.", nearest(name, AUGMENTATIONS))
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
        above_background = (images + 1) / 2
        return torch.stack([self._augment(image) for image in above_background]) * 2 - 1

    def _augment(self, image: Tensor) -> Tensor:
        """Augment [1, S, S] in [0, 1]; the number of draws does not depend on the settings."""
        flip, *signed = torch.rand(9).tolist()
        light, contrast, *place = (2 * draw - 1 for draw in signed)
        if flip < self._config.flip:
            image = functional.horizontal_flip(image)
        image = functional.adjust_brightness(image, 1 + self._config.jitter * light)
        image = functional.adjust_contrast(image, 1 + self._config.jitter * contrast)
        return self._move(image, *place) if self._moves else image

    def _move(
        self, image: Tensor, area: float, x: float, y: float, turn: float, right: float, down: float
    ) -> Tensor:
        """Crop, turn and shift [1, S, S]; the numbers are draws from [-1, 1)."""
        size = image.shape[-1]
        side = math.sqrt(1 - (1 - self._config.crop) * (area + 1) / 2)
        off_centre = [(1 - side) / 2 * size * draw for draw in (x, y)]
        shift = [self._config.shift * size * draw for draw in (right, down)]
        moved: Tensor = functional.affine(
            image,
            angle=self._config.rotate * turn,
            translate=[by - off for by, off in zip(shift, off_centre, strict=True)],
            scale=1 / side,
            shear=[0.0, 0.0],
            center=[size / 2 + off for off in off_centre],
            interpolation=v2.InterpolationMode.BILINEAR,
        )
        return moved


class AutoAugment:
    """The policy that AutoAugment found for ImageNet (Cubuk et al. 2018).

    The policy is defined on 8 bits, so images are rounded to 256 levels. They stay one channel:
    saturation, the only operation on colour, then does nothing, whereas it and contrast would
    move three equal channels by a level, since the weights of luma add up to 0.9999. Solarizing
    and inverting belong to the policy: they turn the image's own background bright.
    """

    def __init__(self, config: AugmentConfig) -> None:
        self._policy = v2.AutoAugment(v2.AutoAugmentPolicy.IMAGENET, fill=0)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Return an augmented copy of images [B, 1, S, S] in [-1, 1]."""
        levels = ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        augmented = torch.stack([self._policy(image) for image in levels])
        return augmented.to(images.dtype) / 127.5 - 1


class RandomErasing:
    """A rectangle of each image is replaced by random values (Zhong et al. 2020).

    As there, every pixel gets a value of its own, evenly spread over the whole range. The
    logarithm of the rectangle's height over its width is evenly spread. A rectangle that does not
    fit is drawn again, up to ten times; then the image stays as it is.

    Raises:
        ConfigError: No rectangle of this share and ratio fits into a square.
    """

    def __init__(self, config: AugmentConfig) -> None:
        smallest, largest = config.erase_area
        narrowest, widest = config.erase_ratio
        if largest > 1:
            raise ConfigError(
                f"augment.erase_area goes up to {largest:g}, more than the image.",
                "Give a largest share of at most 1.",
            )
        if smallest == 1 or widest <= smallest or narrowest >= 1 / smallest:
            raise ConfigError(
                f"No patch of augment.erase_area {smallest:g} and augment.erase_ratio "
                f"{narrowest:g} to {widest:g} fits into the image.",
                "Give a smaller area or a ratio nearer to 1.",
            )
        self._erase = v2.RandomErasing(
            config.erase, config.erase_area, config.erase_ratio, value="random"
        )

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Return an augmented copy of images [B, 1, S, S] in [-1, 1]."""
        untouched = torch.full(images.shape[1:], math.nan, device="cpu")
        normal = torch.stack([self._erase(untouched) for _ in range(len(images))])
        uniform = torch.erf(normal / math.sqrt(2)).to(images.device)
        return torch.where(uniform.isnan(), images, uniform)


AUGMENTATIONS: dict[str, Callable[[AugmentConfig], Augmentation]] = {
    "simple-augment": SimpleAugment,
    "autoaugment": AutoAugment,
    "random-erasing": RandomErasing,
}
