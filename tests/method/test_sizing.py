"""What a configuration leaves to the machine and the data."""

from __future__ import annotations

import pytest

from medxlate.config import resolve
from medxlate.method.discriminator import receptive_field
from medxlate.method.sizing import fitting_layers, sized


def test_a_processor_gets_a_small_network_and_a_gpu_the_published_one():
    scarce = resolve(preset="scarce")
    small = sized(scarce, image_size=64, target_images=100, on_gpu=False).model
    large = sized(scarce, image_size=64, target_images=100, on_gpu=True).model
    assert (small.generator_width, small.generator_blocks, small.predictor) == (
        16,
        3,
        "test_resnet",
    )
    assert (large.generator_width, large.generator_blocks, large.predictor) == (
        64,
        None,
        "resnet50",
    )
    assert (small.discriminator_width, large.discriminator_width) == (16, 64)


@pytest.mark.parametrize(
    ("size", "layers"), [(32, 1), (64, 1), (128, 2), (192, 2), (256, 3), (512, 3)]
)
def test_patches_stay_small_beside_the_image(size: int, layers: int):
    assert fitting_layers(size) == layers
    assert layers == 1 or receptive_field(layers) <= 0.3 * size
    open_ = resolve(preset="scarce", sets=["model.discriminator_layers=0"])
    config = sized(open_, image_size=size, target_images=9, on_gpu=False)
    assert config.model.discriminator_layers == layers


@pytest.mark.parametrize(("images", "batch"), [(100, 8), (16, 8), (10, 5), (3, 1), (1, 1)])
def test_the_batch_fits_few_target_images(images: int, batch: int):
    config = sized(resolve(preset="scarce"), image_size=64, target_images=images, on_gpu=False)
    assert config.optimizer.batch_size == batch


@pytest.mark.parametrize("preset", [None, "paper", "small", "debug"])
def test_what_is_given_stays(preset: str | None):
    config = resolve(preset=preset)
    assert sized(config, image_size=256, target_images=500, on_gpu=False) == config
    once = sized(resolve(preset="scarce"), image_size=64, target_images=50, on_gpu=False)
    assert sized(once, image_size=128, target_images=5, on_gpu=True) == once
