"""The ways of training, each a value in one registry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from medxlate.config import Config
from medxlate.errors import ConfigError, nearest
from medxlate.models.device import Compute
from medxlate.models.generator import default_blocks
from medxlate.models.head import Head
from medxlate.models.predictor import PredictorNetwork
from medxlate.models.translator import TranslatorNetworks
from medxlate.training.step import Joint, Learner, TargetOnly


@dataclass(frozen=True)
class Method:
    """A way of training a predictor for the target modality.

    Attributes:
        build: Makes the learner from configuration, head, image size and compute.
        uses_sources: Whether it needs source modalities.
    """

    build: Callable[[Config, Head, int, Compute], Learner]
    uses_sources: bool


def build_learner(config: Config, head: Head, image_size: int, compute: Compute) -> Learner:
    """Return the configured method's learner, its networks on the device.

    Raises:
        ConfigError: There is no such method.
    """
    return find_method(config.method).build(config, head, image_size, compute)


def find_method(name: str) -> Method:
    """Return a method by name; raises ConfigError where there is none."""
    if name not in METHODS:
        raise ConfigError(f"There is no method '{name}'.", nearest(name, METHODS))
    return METHODS[name]


def generator_blocks(config: Config, image_size: int) -> int:
    """Return the number of residual blocks of the generators."""
    return config.model.generator_blocks or default_blocks(image_size)


def _joint(config: Config, head: Head, image_size: int, compute: Compute) -> Learner:
    predictor = _predictor(config, head, image_size, compute)
    translators = {
        name: TranslatorNetworks(
            width=config.model.generator_width,
            blocks=generator_blocks(config, image_size),
            discriminator_width=config.model.discriminator_width,
        ).to(compute.device)
        for name in config.data.sources
    }
    return Joint(
        translators,
        predictor,
        target=config.data.target,
        head=head,
        objective=config.objective,
        optimizer=config.optimizer,
        compute=compute,
        seed=config.runtime.seed,
    )


def _target_only(config: Config, head: Head, image_size: int, compute: Compute) -> Learner:
    if config.optimizer.batch_size == 1 and image_size < 64:
        raise ConfigError(
            f"Batch norm cannot learn from one image of {image_size} px.",
            "Set optimizer.batch_size to 2 or more.",
        )
    return TargetOnly(
        _predictor(config, head, image_size, compute),
        target=config.data.target,
        head=head,
        optimizer=config.optimizer,
        compute=compute,
    )


def _predictor(config: Config, head: Head, image_size: int, compute: Compute) -> PredictorNetwork:
    """Build the predictor first of all: for the same seed, every method starts from the same."""
    torch.manual_seed(config.runtime.seed)
    predictor = PredictorNetwork(
        architecture=config.model.predictor,
        outputs=head.outputs,
        pretrained=config.model.pretrained,
    ).to(compute.device)
    predictor.check_size(image_size)
    return predictor


METHODS: dict[str, Method] = {
    "joint": Method(_joint, uses_sources=True),
    "target-only": Method(_target_only, uses_sources=False),
}
