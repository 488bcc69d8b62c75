"""The augmentations, against closed forms and against torchvision itself."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2

from medxlate.base.errors import ConfigError
from medxlate.config import AugmentConfig
from medxlate.method.augment import AUGMENTATIONS, _Policy, build_augmentation

SIZE = 64
OFF = {"flip": 0.0, "crop": 1.0, "rotate": 0.0, "shift": 0.0, "jitter": 0.0}

every = pytest.mark.parametrize("name", AUGMENTATIONS)


def noise(count: int, size: int = SIZE) -> Tensor:
    random = torch.Generator().manual_seed(7)
    return torch.rand(count, 1, size, size, generator=random) * 2 - 1


def disc(x: float, y: float, count: int = 1) -> Tensor:
    """A soft dot, 1 at its centre, on a black image; x and y from the image's centre."""
    along = torch.arange(SIZE) + 0.5 - SIZE / 2
    square = (along[None, :] - x) ** 2 + (along[:, None] - y) ** 2
    return (2 * torch.exp(-square / 8) - 1).expand(count, 1, SIZE, SIZE).clone()


def centroid(image: Tensor) -> tuple[float, float]:
    """Where the brightness of [1, S, S] lies, x and y from the image's centre."""
    along = torch.arange(SIZE) + 0.5 - SIZE / 2
    weight = image[0].double() + 1
    total = weight.sum()
    return float((weight.sum(0) * along).sum() / total), float(
        (weight.sum(1) * along).sum() / total
    )


def simple(**settings: float) -> AugmentConfig:
    return AugmentConfig.model_validate(OFF | settings)


def apply(name: str, config: AugmentConfig, images: Tensor, seed: int = 0) -> Tensor:
    torch.manual_seed(seed)
    return build_augmentation(name, config)(images)


@every
def test_keeps_shape_type_and_range(name: str) -> None:
    images = noise(24)
    before = images.clone()
    found = apply(name, AugmentConfig(), images)
    assert found.shape == images.shape
    assert found.dtype == torch.float32
    assert found.isfinite().all()
    assert found.min() >= -1
    assert found.max() <= 1
    assert torch.equal(images, before)
    assert not torch.equal(found, images)


@every
def test_no_gradient_flows(name: str) -> None:
    assert not apply(name, AugmentConfig(), noise(2).requires_grad_()).requires_grad


@every
def test_stays_on_the_device_and_draws_as_on_cpu(name: str) -> None:
    found = apply(name, AugmentConfig(), noise(8).to("meta"))
    elsewhere = torch.rand(1)
    assert found.device.type == "meta"
    assert found.shape == (8, 1, SIZE, SIZE)
    apply(name, AugmentConfig(), noise(8))
    assert torch.equal(elsewhere, torch.rand(1))


@every
def test_goes_on_from_a_restored_state(name: str) -> None:
    augment = build_augmentation(name, AugmentConfig())
    torch.manual_seed(3)
    augment(noise(4))
    state = torch.get_rng_state()
    expected = [augment(noise(4)), augment(noise(4))]
    torch.manual_seed(99)
    torch.set_rng_state(state)
    again = build_augmentation(name, AugmentConfig())
    assert all(torch.equal(again(noise(4)), one) for one in expected)
    assert not torch.equal(*expected)


@every
def test_each_image_is_drawn_for_itself(name: str) -> None:
    config = AugmentConfig(erase=1)
    found = apply(name, config, noise(1).expand(16, -1, -1, -1))
    different = {image.numpy().tobytes() for image in found}
    assert len(different) >= (4 if name == "autoaugment" else 16)


def test_unknown_name() -> None:
    with pytest.raises(ConfigError, match="autoaugment"):
        build_augmentation("autoaugmnt", AugmentConfig())
    with pytest.raises(ConfigError, match=r"autoaugment, random-erasing, simple-augment"):
        build_augmentation("?", AugmentConfig())


@pytest.mark.parametrize("size", [37, 64, 256])
def test_settings_at_zero_change_nothing(size: int) -> None:
    images = noise(4, size)
    assert (apply("simple-augment", simple(), images) - images).abs().max() < 1e-6
    nothing = AugmentConfig(erase=0)
    assert torch.equal(apply("random-erasing", nothing, images), images)


def test_flip_mirrors_left_and_right() -> None:
    images = noise(8)
    found = apply("simple-augment", simple(flip=1), images)
    torch.testing.assert_close(found, images.flip(-1), atol=1e-6, rtol=0)


def test_flip_happens_as_often_as_asked() -> None:
    images = noise(1, 8).expand(1000, -1, -1, -1)
    found = apply("simple-augment", simple(flip=0.3), images)
    flipped = ((found - images.flip(-1)).abs().amax((1, 2, 3)) < 1e-5).sum().item()
    assert abs(flipped - 300) < 4 * math.sqrt(1000 * 0.3 * 0.7)


def test_shift_moves_a_dot_up_to_the_longest() -> None:
    found = apply("simple-augment", simple(shift=0.1), disc(5, -3, count=200))
    moves = torch.tensor([centroid(image) for image in found]) - torch.tensor([5.0, -3.0])
    longest = 0.1 * SIZE
    assert moves.abs().max() <= longest + 1e-3
    assert (moves.amax(0) > 0.9 * longest).all()
    assert (moves.amin(0) < -0.9 * longest).all()
    assert abs(torch.corrcoef(moves.T)[0, 1]) < 0.3


def test_rotation_turns_about_the_centre() -> None:
    found = apply("simple-augment", simple(rotate=20), disc(16, 0, count=200))
    places = torch.tensor([centroid(image) for image in found])
    torch.testing.assert_close(places.norm(dim=1), torch.full((200,), 16.0), atol=0.01, rtol=0)
    degrees = torch.rad2deg(torch.atan2(places[:, 1], places[:, 0]))
    assert degrees.abs().max() <= 20.01
    assert degrees.max() > 18
    assert degrees.min() < -18


def test_crop_keeps_the_share_and_the_proportions() -> None:
    """Of dots at (+-5, 0) and (0, 5), the distances grow by 1 / sqrt(share) at most.

    Bilinear resampling moves the centroid of a dot this small by up to 0.02 pixels.
    """
    dots = [disc(-5, 0, 200), disc(5, 0, 200), disc(0, 5, 200)]
    left, right, below = (
        torch.tensor([centroid(image) for image in apply("simple-augment", simple(crop=0.5), dot)])
        for dot in dots
    )
    zoom = (right - left)[:, 0] / 10
    assert 0.995 <= zoom.min() < 1.02
    assert 1.39 < zoom.max() <= math.sqrt(2) + 0.005
    centre = (left + right) / 2
    torch.testing.assert_close((below - centre)[:, 1], 5 * zoom, atol=0.05, rtol=0)
    # The kept square lies within the image: its centre is off by (1 - 1 / zoom) / 2 at most.
    off = centre.abs().amax(1) / zoom
    assert (off <= (1 - 1 / zoom) / 2 * SIZE + 0.2).all()
    assert off.max() > 4


def test_crop_alone_brings_in_no_background() -> None:
    white = torch.ones(50, 1, SIZE, SIZE)
    inside = apply("simple-augment", simple(crop=0.5), white)[..., 1:-1, 1:-1]
    assert (inside - 1).abs().max() < 1e-5


def test_outside_is_background() -> None:
    white = torch.ones(50, 1, SIZE, SIZE)
    found = apply("simple-augment", simple(shift=0.5, rotate=90, jitter=0.2), white)
    assert (found == -1).flatten(1).any(1).float().mean() > 0.9
    level = found.amax((1, 2, 3), keepdim=True)
    assert level.min() > 0.2
    edge = (found > -1) & (found < level - 1e-4)
    assert edge.float().mean((1, 2, 3)).max() < 1.5 * 4 / SIZE


def test_jitter_bounds_brightness_and_contrast() -> None:
    """Of a half black, half white image, contrast moves both ends, brightness scales them."""
    image = -torch.ones(1, 1, SIZE, SIZE)
    image[..., SIZE // 2 :] = 0.0
    found = (apply("simple-augment", simple(jitter=0.2), image.expand(300, -1, -1, -1)) + 1) / 2
    dark, light = found[:, 0, 0, 0], found[:, 0, 0, -1]
    assert (found[..., : SIZE // 2] == dark[:, None, None, None]).all()
    # Levels 0 and 0.5, mean 0.25: after factors b and c they are 0.25 b (1 - c), 0.25 b (1 + c).
    unclipped = dark > 0
    brightness = 2 * (dark + light)[unclipped]
    contrast = (light - dark)[unclipped] / (light + dark)[unclipped]
    assert brightness.min() >= 0.8 - 1e-5
    assert brightness.max() <= 1.2 + 1e-5
    assert brightness.max() - brightness.min() > 0.35
    assert 0.8 - 1e-5 <= contrast.min() < 0.83
    assert (light[~unclipped] <= 0.25 * 1.2 * 2.2 + 1e-5).all()


class Sensible(v2.AutoAugment):
    """torchvision's policy, whose operations without medical sense do nothing."""

    def _apply_image_or_video_transform(
        self, image: Tensor, transform_id: str, *args: Any, **options: Any
    ) -> Tensor:
        if transform_id in ("Invert", "Solarize", "Posterize"):
            return image
        return super()._apply_image_or_video_transform(image, transform_id, *args, **options)


def test_autoaugment_draws_nothing_without_medical_sense() -> None:
    policy = _Policy(v2.AutoAugmentPolicy.IMAGENET, fill=0)
    torch.manual_seed(0)
    drawn = {name for _ in range(2000) for name, _ in policy.draw(torch.Size((1, 8, 8)))}
    assert drawn == {
        *("AutoContrast", "Color", "Contrast", "Equalize", "Rotate", "Sharpness", "ShearX")
    }
    # Air stays darker than bone, whatever is drawn.
    along = torch.arange(SIZE) + 0.5 - SIZE / 2
    head = torch.where(along[None, :] ** 2 + along[:, None] ** 2 < 20**2, 0.8, -0.9)
    found = apply("autoaugment", AugmentConfig(), head.expand(400, 1, -1, -1))
    assert (found[:, 0, SIZE // 2, SIZE // 2] > found[:, 0, 2, 2] + 0.1).all()


def test_autoaugment_is_torchvisions_own() -> None:
    levels = torch.arange(256).repeat(16).reshape(1, 64, 64).to(torch.uint8)
    image = levels[None].float() / 255 * 2 - 1
    changed = 0
    for seed in range(40):
        found = apply("autoaugment", AugmentConfig(), image, seed)
        torch.manual_seed(seed)
        expected = Sensible(v2.AutoAugmentPolicy.IMAGENET)(levels)
        assert torch.equal(((found[0] + 1) * 127.5).round().to(torch.uint8), expected)
        torch.testing.assert_close(found[0], expected / 255 * 2 - 1, atol=1e-6, rtol=0)
        changed += not torch.equal(expected, levels)
    assert changed >= 12


def test_autoaugment_keeps_both_ends_of_the_range() -> None:
    image = torch.where(noise(1) > 0, 1.0, -1.0)
    assert set(apply("autoaugment", AugmentConfig(), image, seed=0).unique().tolist()) <= {-1, 1}


def test_autoaugment_acts_as_on_a_grey_colour_image() -> None:
    """Three equal channels stay equal, and give what one does to within the rounding of luma."""
    levels = ((noise(1)[0] + 1) * 127.5).round().to(torch.uint8)
    for seed in range(40):
        torch.manual_seed(seed)
        colour = Sensible(v2.AutoAugmentPolicy.IMAGENET)(levels.expand(3, -1, -1)).int()
        found = (apply("autoaugment", AugmentConfig(), levels[None] / 127.5 - 1, seed) + 1) * 127.5
        assert (colour == colour[:1]).all()
        assert ((colour[:1] - found[0]).abs() < 2.01).float().mean() > 0.98


def erased(config: AugmentConfig, count: int) -> Tensor:
    """Which pixels of [count, S, S] were erased, of images whose value no draw can give."""
    found = apply("random-erasing", config, torch.full((count, 1, SIZE, SIZE), 5.0))
    return found[:, 0] != 5


def test_erases_one_rectangle_within_bounds() -> None:
    config = AugmentConfig(erase=1)
    shares, ratios = [], []
    for mask in erased(config, 400):
        rows, columns = mask.any(1), mask.any(0)
        height, width = int(rows.sum()), int(columns.sum())
        assert mask.sum() == height * width
        assert torch.equal(mask, rows[:, None] & columns[None, :])
        assert rows.nonzero().max() - rows.nonzero().min() == height - 1
        assert columns.nonzero().max() - columns.nonzero().min() == width - 1
        half_pixel = (height + width) / 2 + 0.25
        assert 0.02 * SIZE**2 - half_pixel <= height * width <= 0.4 * SIZE**2 + half_pixel
        assert (height - 0.5) / (width + 0.5) <= 3.33
        assert (height + 0.5) / (width - 0.5) >= 0.3
        shares.append(height * width / SIZE**2)
        ratios.append(height / width)
    assert min(shares) < 0.04
    assert max(shares) > 0.36
    assert min(ratios) < 0.4
    assert max(ratios) > 2.5


@pytest.mark.parametrize("chance", [0.0, 0.25, 1.0])
def test_erases_as_often_as_asked(chance: float) -> None:
    hits = erased(AugmentConfig(erase=chance), 1000).flatten(1).any(1).sum().item()
    assert abs(hits - 1000 * chance) <= 4 * math.sqrt(1000 * chance * (1 - chance))


def test_erased_values_are_uniform_over_the_range() -> None:
    """Kolmogorov's distance to the uniform distribution is below 1.95 / sqrt(n) at p = 0.001."""
    black = -torch.ones(40, 1, SIZE, SIZE)
    found = apply("random-erasing", AugmentConfig(erase=1), black)
    values = found[found != -1].sort().values
    steps = torch.arange(1, len(values) + 1) / len(values)
    assert len(values) > 10_000
    assert (steps - (values + 1) / 2).abs().max() < 1.95 / math.sqrt(len(values))


@pytest.mark.parametrize(
    "settings",
    [{"erase_area": (0.1, 1.5)}, {"erase_area": (1, 1)}]
    + [{"erase_area": (0.5, 0.6), "erase_ratio": ratio} for ratio in ((2, 3), (0.1, 0.5))],
)
def test_erasing_that_never_fits(settings: dict[str, tuple[float, float]]) -> None:
    with pytest.raises(ConfigError, match=r"augment\.erase_area"):
        build_augmentation("random-erasing", AugmentConfig.model_validate(settings))
