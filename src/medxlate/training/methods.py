"""The ways of training, each a value in one registry (paper, sections 3 and 4.3)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch

from medxlate.config import Config
from medxlate.errors import ConfigError, nearest
from medxlate.models.device import Compute
from medxlate.models.generator import default_blocks
from medxlate.models.head import Head
from medxlate.models.predictor import PredictorNetwork
from medxlate.models.synced_norm import synchronise
from medxlate.models.translator import TranslatorNetworks
from medxlate.ranks import ranks
from medxlate.training.augment import AUGMENTATIONS, Augmentation, build_augmentation
from medxlate.training.baselines import Dann, MultiTask
from medxlate.training.joint import Joint
from medxlate.training.stand_ins import StandIn, matched_to_target, repeated_target, true_images
from medxlate.training.step import Learner, Supervised

Build = Callable[[Config, Head, int, Compute, Augmentation | None], Learner]


@dataclass(frozen=True)
class Method:
    """A way to a predictor for the target modality.

    Attributes:
        build: Makes the learner from configuration, head, image size, compute and augmentation;
            None: there is nothing to train.
        uses_sources: Whether it needs source modalities.
        scale_from: Whose training labels give the predictor's scale.
        augmentation: What is added to the target's images; "" for nothing.
        first: A stage that is trained before, and what becomes of it: ``translator`` translates
            the source images, ``source-only`` gives the predictor its first weights.
        translates: Whether a generator from source to target comes out.
        stand_in: What is shown in the place of each source's images; None: they themselves, or
            their translations.
    """

    build: Build | None
    uses_sources: bool = False
    scale_from: Literal["target", "sources", "all"] = "target"
    augmentation: str = ""
    first: Literal["", "translator", "source-only"] = ""
    translates: bool = False
    stand_in: StandIn | None = None


def build_learner(config: Config, head: Head, image_size: int, compute: Compute) -> Learner:
    """Return the configured method's learner, its networks on the device.

    Raises:
        ConfigError: There is no such method, or the batch is too small for it.
    """
    method = find_method(config.method)
    assert method.build is not None, "check_config refuses it"
    name = method.augmentation
    augment = build_augmentation(name, config.augment) if name else None
    learner = method.build(config, head, image_size, compute, augment)
    if learner.predictor_batches * config.optimizer.batch_size == 1 and image_size < 64:
        raise ConfigError(
            f"Batch norm cannot learn from one image of {image_size} px.",
            "Set optimizer.batch_size to 2 or more.",
        )
    return learner


def find_method(name: str) -> Method:
    """Return a method, or a first stage, by name; ``joint+autoaugment`` is joint with that added.

    The methods in MIXED, which show images beside the target's own, take an augmentation so.

    Raises:
        ConfigError: There is none.
    """
    if name in STAGES:
        return STAGES[name]
    base, plus, augmentation = name.partition("+")
    if base not in METHODS:
        raise ConfigError(f"There is no method '{base}'.", nearest(base, METHODS))
    if not plus:
        return METHODS[base]
    if base not in MIXED or augmentation not in AUGMENTATIONS:
        known = f"one of {', '.join(MIXED)} with one of +{', +'.join(AUGMENTATIONS)}"
        raise ConfigError(f"There is no method '{name}'.", f"These go together: {known}.")
    return replace(METHODS[base], augmentation=augmentation)


def first_stages(config: Config) -> Mapping[str, Config]:
    """Return the configurations of what a method trains before, by a name of each.

    `cyclegan` trains a translator for each source, without labels; `transfer` a predictor on all
    sources, which knows nothing of the target and so does not depend on its share.
    """
    stage = find_method(config.method).first
    if not stage:
        return {}
    epochs = config.baselines.first_epochs or config.optimizer.epochs
    first = config.model_copy(
        update={
            "method": stage,
            "optimizer": config.optimizer.model_copy(update={"epochs": epochs}),
        }
    )
    if stage == "source-only":
        whole = first.data.model_copy(update={"target_fraction": 1.0})
        return {"sources": first.model_copy(update={"data": whole})}
    return {
        source: first.model_copy(
            update={"data": first.data.model_copy(update={"sources": (source,)})}
        )
        for source in config.data.sources
    }


def generator_blocks(config: Config, image_size: int) -> int:
    """Return the number of residual blocks of the generators."""
    return config.model.generator_blocks or default_blocks(image_size)


def _joint(
    config: Config, head: Head, image_size: int, compute: Compute, augment: Augmentation | None
) -> Learner:
    predictor = _predictor(config, head, image_size, compute)
    return _translating(config, head, image_size, compute, predictor, augment)


def _translator(
    config: Config, head: Head, image_size: int, compute: Compute, augment: Augmentation | None
) -> Learner:
    torch.manual_seed(config.runtime.seed)
    return _translating(config, head, image_size, compute, None, augment)


def _translating(
    config: Config,
    head: Head,
    image_size: int,
    compute: Compute,
    predictor: PredictorNetwork | None,
    augment: Augmentation | None,
) -> Learner:
    translators = {
        name: compute.place(
            TranslatorNetworks(
                width=config.model.generator_width,
                blocks=generator_blocks(config, image_size),
                discriminator_width=config.model.discriminator_width,
                recompute=config.runtime.recompute,
            )
        )
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
        augment=augment,
        together=compute.device.type != "cpu",  # where calls cost nothing beside the work
    )


def _supervised(
    learns_from: Literal["target", "sources", "all"],
) -> Build:
    """Return how to build a predictor that learns from these modalities."""

    def build(
        config: Config, head: Head, image_size: int, compute: Compute, augment: Augmentation | None
    ) -> Learner:
        return Supervised(
            _predictor(config, head, image_size, compute),
            sources=config.data.sources if learns_from != "target" else (),
            target=config.data.target if learns_from != "sources" else None,
            head=head,
            optimizer=config.optimizer,
            compute=compute,
            augment=augment,
        )

    return build


def _shared_backbone(kind: type[MultiTask] | type[Dann]) -> Build:
    """Return how to build one of the methods that share a backbone."""

    def build(
        config: Config, head: Head, image_size: int, compute: Compute, augment: Augmentation | None
    ) -> Learner:
        return kind(
            _predictor(config, head, image_size, compute),
            sources=config.data.sources,
            target=config.data.target,
            head=head,
            optimizer=config.optimizer,
            config=config.baselines,
            compute=compute,
        )

    return build


def _predictor(config: Config, head: Head, image_size: int, compute: Compute) -> PredictorNetwork:
    """Build the predictor first of all: for the same seed, every method starts from the same."""
    torch.manual_seed(config.runtime.seed)
    predictor = compute.place(
        PredictorNetwork(
            architecture=config.model.predictor,
            outputs=head.outputs,
            pretrained=config.model.pretrained,
            offline=config.runtime.offline,
        )
    )
    predictor.check_size(image_size)
    if not ranks().is_alone and config.runtime.sync_bn:
        synchronise(predictor)
    return predictor


METHODS: dict[str, Method] = {
    "constant": Method(None),
    "target-only": Method(_supervised("target")),
    "joint": Method(_joint, uses_sources=True, scale_from="all", translates=True),
    "cyclegan": Method(
        _supervised("all"),
        uses_sources=True,
        scale_from="all",
        first="translator",
        translates=True,
    ),
    "raw-mix": Method(_supervised("all"), uses_sources=True, scale_from="all"),
    "histogram": Method(
        _supervised("all"), uses_sources=True, scale_from="all", stand_in=matched_to_target
    ),
    "duplicate-real": Method(_supervised("all"), uses_sources=True, stand_in=repeated_target),
    "oracle": Method(_supervised("all"), uses_sources=True, scale_from="all", stand_in=true_images),
    "transfer": Method(
        _supervised("target"), uses_sources=True, scale_from="sources", first="source-only"
    ),
    "multitask": Method(_shared_backbone(MultiTask), uses_sources=True, scale_from="all"),
    "dann": Method(_shared_backbone(Dann), uses_sources=True, scale_from="all"),
    **{name: Method(_supervised("target"), augmentation=name) for name in AUGMENTATIONS},
}
MIXED = ("joint", "cyclegan", "raw-mix", "histogram", "duplicate-real", "oracle")
STAGES: dict[str, Method] = {
    "translator": Method(_translator, uses_sources=True, translates=True),
    "source-only": Method(_supervised("sources"), uses_sources=True, scale_from="sources"),
}
