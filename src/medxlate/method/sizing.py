"""What a configuration leaves to the machine and the data, decided when a training begins.

A key that is 0 (or, of the predictor, ``auto``) is replaced here and written into the run's
configuration, so that a run that is resumed elsewhere stays what it was.
"""

from __future__ import annotations

from typing import Any

from medxlate.config import Config, parse
from medxlate.method.discriminator import receptive_field

PATCH_SHARE = 0.3  # of the image's side that a discriminator's patch takes at most
PUBLISHED_LAYERS = 3
MOST_BATCH = 8

# On a GPU the published width; on a processor what trains in minutes at 64 px.
ON_GPU: dict[str, Any] = {
    "generator_width": 64,
    "generator_blocks": None,
    "discriminator_width": 64,
    "predictor": "resnet50",
}
ON_PROCESSOR: dict[str, Any] = {
    "generator_width": 16,
    "generator_blocks": 3,
    "discriminator_width": 16,
    "predictor": "test_resnet",
}


def sized(config: Config, *, image_size: int, target_images: int, on_gpu: bool) -> Config:
    """Return the configuration with nothing left open.

    Args:
        config: Perhaps with keys that are 0 or ``auto``.
        image_size: Side of the images in training, pixels.
        target_images: Target images in training.
        on_gpu: Whether the training computes on a GPU.
    """
    values = config.model_dump(mode="json")
    model, optimizer = values["model"], values["optimizer"]
    for key, chosen in (ON_GPU if on_gpu else ON_PROCESSOR).items():
        if model[key] in (0, "auto"):
            model[key] = chosen
    if model["discriminator_layers"] == 0:
        model["discriminator_layers"] = fitting_layers(image_size)
    if optimizer["batch_size"] == 0:
        optimizer["batch_size"] = max(min(MOST_BATCH, target_images // 2), 1)
    return parse(values)


def fitting_layers(image_size: int) -> int:
    """Return how deep a discriminator may be for its patches to stay small beside the image.

    The most layers whose patches take up to 30 % of the side, at least one, at most the published
    three: 16 px of 64, 34 px of 128, 70 px of 256.
    """
    layers = 1
    while layers < PUBLISHED_LAYERS and receptive_field(layers + 1) <= PATCH_SHARE * image_size:
        layers += 1
    return layers
