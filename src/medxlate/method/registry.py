"""The ways of training, each a value in one registry (paper, sections 3 and 4.3)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from medxlate.base.device import Compute
from medxlate.base.distributed import ranks
from medxlate.base.errors import ConfigError, nearest
from medxlate.base.plugins import (
    Kind,
    PluginError,
    PluginRecord,
    blamed,
    choose,
    described,
    installed,
    used,
    with_settings,
)
from medxlate.config import Config
from medxlate.method.added import added_losses
from medxlate.method.augment import AUGMENTATIONS, Augmentation, build_augmentation
from medxlate.method.baselines import Dann, MultiTask
from medxlate.method.discriminator import most_layers, receptive_field
from medxlate.method.generator import GENERATORS, check_images, default_blocks
from medxlate.method.joint import Joint
from medxlate.method.label_transform import LabelTransform
from medxlate.method.learner import Learner
from medxlate.method.placing import place
from medxlate.method.predictor import (
    PredictorNetwork,
    has_batch_norm,
    is_plugin,
    synchronise,
)
from medxlate.method.schedule import FINETUNE_RATE
from medxlate.method.stand_ins import StandIn, matched_to_target, repeated_target, true_images
from medxlate.method.supervised import Supervised
from medxlate.method.translator import TranslatorNetworks


@dataclass(frozen=True)
class Ingredients:
    """What a learner is built from.

    Attributes:
        config: The configuration.
        head: What the predictor's outputs mean.
        image_size: Side of the images, pixels.
        compute: Device and precision.
        counts: Training images by modality.
    """

    config: Config
    head: LabelTransform
    image_size: int
    compute: Compute
    counts: Mapping[str, int]

    @property
    def augment(self) -> Augmentation | None:
        """What is added to the target's images; None where the method adds nothing."""
        name = find_method(self.config.method).augmentation
        return build_augmentation(name, self.config.augment) if name else None


# From the ingredients, and a plug-in's settings as keywords.
Build = Callable[..., Learner]


@dataclass(frozen=True)
class Method:
    """A way to a predictor for the target modality.

    Attributes:
        build: Makes the learner; None: there is nothing to train.
        uses_sources: Whether it needs source modalities.
        scale_from: Whose training labels give the predictor's scale.
        augmentation: What is added to the target's images; "" for nothing.
        first: A stage that is trained before, and what becomes of it: ``translator`` translates
            the source images, ``source-only`` gives the predictor its first weights.
        translates: Whether a generator from source to target comes out.
        mixes: Whether the sources' images, or what stands for them, and the target's are one
            training set (equation 2): then the predictor may be fine-tuned on the target's alone,
            and the method takes an augmentation on top.
        stand_in: What is shown in the place of each source's images; None: they themselves, or
            their translations.
    """

    build: Build | None
    uses_sources: bool = False
    scale_from: Literal["target", "sources", "all"] = "target"
    augmentation: str = ""
    first: Literal["", "translator", "source-only"] = ""
    translates: bool = False
    mixes: bool = False
    stand_in: StandIn | None = None

    @property
    def needs_pairs(self) -> bool:
        """Whether it shows the source patients' true target images (``data.oracle``)."""
        return self.stand_in is true_images

    @property
    def shows_source_patients(self) -> bool:
        """Whether anything of the source patients is learned from."""
        return self.uses_sources and self.stand_in is not repeated_target

    @property
    def shows_both(self) -> bool:
        """Whether its steps show images of source patients beside the target's."""
        return self.shows_source_patients and self.scale_from != "sources"


def build_learner(
    config: Config,
    head: LabelTransform,
    image_size: int,
    compute: Compute,
    *,
    counts: Mapping[str, int] | None = None,
) -> Learner:
    """Return the configured method's learner, its networks on the device.

    Args:
        config: The configuration.
        head: What the predictor's outputs mean.
        image_size: Side of the images, pixels.
        compute: Device and precision.
        counts: Training images by modality, where ``objective.fake_weight`` goes by them.

    Raises:
        ConfigError: There is no such method, or the batch is too small for it, or the images for
            the discriminators.
    """
    method, base = find_method(config.method), base_method(config.method)
    assert method.build is not None, "check_config refuses it"
    given = Ingredients(config, head, image_size, compute, counts or {})
    build = with_settings("methods", base, method.build, config.plugins.get(base, {}))
    own = base in METHODS or base in STAGES
    with nullcontext() if own else blamed("methods", base):
        learner = build(given)
    together = config.model.batch_norm == "joint" or not method.uses_sources
    batches = learner.predictor_batches if together else min(learner.predictor_batches, 1)
    single = batches * config.optimizer.batch_size == 1
    if single and image_size < 64 and config.model.predictor_norm == "batch":
        raise ConfigError(
            f"Batch norm cannot learn from one image of {image_size} px.",
            "Set optimizer.batch_size to 2 or more, or model.predictor_norm=group.",
        )
    return learner


def single_images(config: Config) -> str:
    """Return a warning where batch norm takes the statistics of single images, or nothing.

    Methods that show the predictor other images as well then have statistics of two or more, so
    that methods differ by that, too.
    """
    model, size = config.model, config.optimizer.batch_size
    alone = 0 < size <= config.runtime.accumulate
    if not alone or model.predictor_norm == "group":
        return ""
    settings = config.plugins.get(model.predictor, {})
    if model.predictor != "auto" and not has_batch_norm(model.predictor, settings):
        return ""
    key = "optimizer.batch_size = 1"
    if size > 1:
        key = f"optimizer.batch_size = {size} and runtime.accumulate = {config.runtime.accumulate}"
    return (
        f"With {key} the predictor's batch norm takes its statistics from one target image at a "
        "time, and from more where a method adds others, so that methods differ by that as well. "
        "Set optimizer.batch_size to 2 or more, or model.predictor_norm=group."
    )


def find_method(name: str) -> Method:
    """Return a method, or a first stage, by name; ``joint+autoaugment`` is joint with that added.

    Methods that mix take an augmentation so. What medxlate itself does not have is a plug-in's.

    Raises:
        ConfigError: There is none.
        PluginError: The plug-in cannot be loaded.
    """
    if name in STAGES:
        return STAGES[name]
    base, plus, augmentation = name.partition("+")
    method = choose("methods", base, METHODS, Method)
    if method.build is None and base not in METHODS:
        raise PluginError(f"The {described('methods', base)} does not say how it is built.")
    if not plus:
        return method
    if not method.mixes or augmentation not in AUGMENTATIONS:
        mixing = (name for name, each in METHODS.items() if each.mixes)
        known = f"{', '.join(mixing)} with +{', +'.join(AUGMENTATIONS)}"
        raise ConfigError(
            f"Unknown method '{name}'.",
            f"These go together, as in joint+autoaugment: {known}.",
        )
    return replace(method, augmentation=augmentation)


def base_method(name: str) -> str:
    """Return the name of a method without what is added: ``joint`` of ``joint+autoaugment``."""
    return name.partition("+")[0]


def check_settings(config: Config) -> None:
    """Raise ConfigError where ``plugins`` has settings of what is not installed."""
    for name in config.plugins:
        if all(each.name != name for each in installed()):
            hint = nearest(name, {each.name for each in installed()})
            raise ConfigError(
                f"Configuration key 'plugins.{name}': no plug-in of that name is installed.", hint
            )


def used_plugins(config: Config) -> tuple[PluginRecord, ...]:
    """Return the plug-ins by which a configuration is trained."""
    model, base = config.model, base_method(config.method)
    wanted: list[tuple[Kind, str]] = []
    if base not in (*METHODS, *STAGES):
        wanted.append(("methods", base))
    if find_method(config.method).translates:
        wanted += [("losses", name) for name, weight in config.objective.losses.items() if weight]
        if model.generator not in GENERATORS:
            wanted.append(("generators", model.generator))
    if is_plugin(model.predictor):
        wanted.append(("predictors", model.predictor))
    return used(wanted)


def first_stages(config: Config) -> Mapping[str, Config]:
    """Return the configurations of what a method trains before, by a name of each.

    `cyclegan` trains a translator for each source, without labels; `transfer` a predictor on all
    sources, which knows nothing of the target and so does not depend on its share.
    """
    stage = find_method(config.method).first
    if not stage:
        return {}
    update: dict[str, Any] = {"finetune_share": 0.0}
    epochs = config.baselines.first_epochs or config.optimizer.epochs
    if stage == "translator":  # it has no predictor to wait for, and learns to the end
        optimizer = config.optimizer
        share = optimizer.autoencode / optimizer.translator_share
        update |= {"autoencode": share, "warmup": share, "translator_share": 1.0}
        if config.baselines.first_epochs is None:  # as many steps as in `joint`
            epochs = max(round(epochs * optimizer.translator_share), 1)
    first = config.model_copy(
        update={
            "method": stage,
            "optimizer": config.optimizer.model_copy(update={**update, "epochs": epochs}),
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


def translator_networks(config: Config, image_size: int) -> TranslatorNetworks:
    """Return the networks of one source, as configured, with new weights.

    Raises:
        ConfigError: There is no such generator, or the discriminators are too deep for the images.
    """
    model = config.model
    if model.discriminator_layers > (most := most_layers(image_size)):
        raise ConfigError(
            f"Discriminators of {model.discriminator_layers} layers judge patches of "
            f"{receptive_field(model.discriminator_layers)} px; images of {image_size} px leave "
            "them nothing to compare.",
            f"Set model.discriminator_layers to {most} or less.",
        )
    networks = TranslatorNetworks(
        generator=model.generator,
        width=model.generator_width,
        blocks=generator_blocks(config, image_size),
        upsample=model.upsample,
        skip=model.skip,
        discriminator_width=model.discriminator_width,
        discriminator_layers=model.discriminator_layers,
        discriminator_norm=model.discriminator_norm,
        one_sided=config.objective.one_sided,
        recompute=config.runtime.recompute,
        settings=config.plugins.get(model.generator),
    )
    if model.generator not in GENERATORS:
        check_images(networks.g, model.generator, image_size)
    return networks


def generator_blocks(config: Config, image_size: int) -> int:
    """Return the number of residual blocks of the generators."""
    return config.model.generator_blocks or default_blocks(image_size)


def joint(given: Ingredients) -> Learner:
    """Build the paper's method: translators and predictor that learn together."""
    return _translating(given, new_predictor(given))


def _translator(given: Ingredients) -> Learner:
    torch.manual_seed(given.config.runtime.seed)
    return _translating(given, None)


def _translating(given: Ingredients, predictor: PredictorNetwork | None) -> Learner:
    config, compute = given.config, given.compute
    return Joint(
        {
            name: place(translator_networks(config, given.image_size), compute)
            for name in config.data.sources
        },
        predictor,
        target=config.data.target,
        head=given.head,
        objective=config.objective,
        optimizer=config.optimizer,
        compute=compute,
        seed=config.runtime.seed,
        separate=config.model.batch_norm == "separate",
        counts=given.counts,
        augment=given.augment,
        added=added_losses(config),
        together=compute.device.type != "cpu",  # where calls cost nothing beside the work
    )


def supervised(learns_from: Literal["target", "sources", "all"]) -> Build:
    """Return how to build a predictor that learns from these modalities.

    One that has learned from the sources before is fine-tuned, at a tenth of the rate.
    """

    def build(given: Ingredients) -> Learner:
        config = given.config
        optimizer = config.optimizer
        if find_method(config.method).first == "source-only":
            rate = optimizer.predictor_lr * FINETUNE_RATE
            optimizer = optimizer.model_copy(update={"predictor_lr": rate})
        return Supervised(
            new_predictor(given),
            sources=config.data.sources if learns_from != "target" else (),
            target=config.data.target if learns_from != "sources" else None,
            head=given.head,
            optimizer=optimizer,
            objective=config.objective,
            separate=config.model.batch_norm == "separate",
            translated=find_method(config.method).first == "translator",
            counts=given.counts,
            compute=given.compute,
            augment=given.augment,
        )

    return build


def _shared_backbone(kind: type[MultiTask] | type[Dann]) -> Build:
    """Return how to build one of the methods that share a backbone."""

    def build(given: Ingredients) -> Learner:
        config = given.config
        return kind(
            new_predictor(given),
            sources=config.data.sources,
            target=config.data.target,
            head=given.head,
            optimizer=config.optimizer,
            config=config.baselines,
            compute=given.compute,
        )

    return build


def new_predictor(given: Ingredients) -> PredictorNetwork:
    """Build the predictor first of all: for the same seed, every method starts from the same."""
    config = given.config
    torch.manual_seed(config.runtime.seed)
    predictor = place(
        PredictorNetwork(
            architecture=config.model.predictor,
            norm=config.model.predictor_norm,
            outputs=given.head.outputs,
            pretrained=config.model.pretrained,
            offline=config.runtime.offline,
            settings=config.plugins.get(config.model.predictor),
        ),
        given.compute,
    )
    predictor.check_size(given.image_size)
    if not ranks().is_alone and config.runtime.sync_bn:
        synchronise(predictor)
    return predictor


METHODS: dict[str, Method] = {
    "constant": Method(None),
    "target-only": Method(supervised("target")),
    "joint": Method(joint, uses_sources=True, scale_from="all", translates=True, mixes=True),
    "cyclegan": Method(
        supervised("all"),
        uses_sources=True,
        scale_from="all",
        first="translator",
        translates=True,
        mixes=True,
    ),
    "raw-mix": Method(supervised("all"), uses_sources=True, scale_from="all", mixes=True),
    "histogram": Method(
        supervised("all"),
        uses_sources=True,
        scale_from="all",
        mixes=True,
        stand_in=matched_to_target,
    ),
    "duplicate-real": Method(
        supervised("all"), uses_sources=True, mixes=True, stand_in=repeated_target
    ),
    "oracle": Method(
        supervised("all"), uses_sources=True, scale_from="all", mixes=True, stand_in=true_images
    ),
    "transfer": Method(
        supervised("target"), uses_sources=True, scale_from="sources", first="source-only"
    ),
    "multitask": Method(_shared_backbone(MultiTask), uses_sources=True, scale_from="all"),
    "dann": Method(_shared_backbone(Dann), uses_sources=True, scale_from="all"),
    **{name: Method(supervised("target"), augmentation=name) for name in AUGMENTATIONS},
}
STAGES: dict[str, Method] = {
    "translator": Method(_translator, uses_sources=True, translates=True),
    "source-only": Method(supervised("sources"), uses_sources=True, scale_from="sources"),
}
