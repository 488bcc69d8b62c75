"""What a training is made from: configuration, data, split, learner."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from medxlate.base.device import Compute, choose_compute
from medxlate.base.distributed import ranks
from medxlate.base.errors import ConfigError
from medxlate.base.events import Listener, silent
from medxlate.config import Config
from medxlate.dataset.index import Dataset, Modality
from medxlate.dataset.splits import Split, training_share
from medxlate.dataset.training_data import Data, image_size, make_data
from medxlate.method.label_transform import LabelTransform, fit_label_transform
from medxlate.method.learner import Learner
from medxlate.method.matching import matched
from medxlate.method.registry import STAGES, build_learner, check_settings, find_method
from medxlate.method.sizing import sized
from medxlate.method.stand_ins import NO_PAIRS

RESERVED = {"predictor", *dir(nn.ModuleDict())}  # of the networks, by whose names sources go too


def check_config(config: Config) -> None:
    """Raise ConfigError unless the method can be trained and has the modalities that it needs."""
    if not config.data.target:
        raise ConfigError("No target modality is given.", "Add --target.")
    method = find_method(config.method)
    if config.method in STAGES:
        raise ConfigError(
            f"{config.method} is a first stage, not a method of its own.",
            "Train cyclegan or transfer, which include it.",
        )
    if method.build is None:
        raise ConfigError(
            f"The method {config.method} needs no training.", "Use it in `medxlate compare`."
        )
    for name in config.data.sources:
        if name in RESERVED:
            raise ConfigError(
                f"'{name}' is not allowed as the name of a source.",
                "Prepare the modality under another name.",
            )
    if method.uses_sources and not config.data.sources:
        raise ConfigError(f"The method {config.method} needs a source modality.", "Add --source.")
    if config.data.match_labels and not method.shows_both:
        raise ConfigError(
            f"data.match_labels has no effect on {config.method}, whose steps do not show source "
            "and target images together.",
            "Drop it, or choose a method that does, such as joint or raw-mix.",
        )
    check_pairs(config)
    check_settings(config)
    _check_division(config.optimizer.batch_size, config.runtime.accumulate, ranks().count)


def check_pairs(config: Config) -> None:
    """Raise ConfigError where the method needs true target images and none are named."""
    if not find_method(config.method).needs_pairs:
        return
    if not config.data.oracle:
        raise ConfigError(*NO_PAIRS)
    if config.split.policy == "image":
        raise ConfigError(
            "The method oracle needs split.policy=patient: a split by image separates pairs.",
            "Drop --policy image or the method.",
        )


def _check_division(batch_size: int, parts: int, count: int) -> None:
    """Raise ConfigError where a batch cannot be divided between the processes."""
    if 0 < batch_size < count:
        raise ConfigError(
            f"A batch of {batch_size} cannot be divided among {count} processes.",
            "Set optimizer.batch_size (--batch-size), the total of all processes, to at least "
            f"{count}.",
        )
    if parts > 1 and batch_size % count:
        raise ConfigError(
            f"With runtime.accumulate={parts}, all {count} processes need equal parts of a batch.",
            f"Set optimizer.batch_size to a multiple of {count}.",
        )


@dataclass(frozen=True)
class RunInputs:
    """What a training is made from.

    Attributes:
        config: The configuration, with nothing left open.
        dataset: The dataset.
        tables: Every modality that is named.
        split: Who is trained, validated and tested on.
    """

    config: Config
    dataset: Dataset
    tables: dict[str, Modality]
    split: Split


def make_inputs(
    config: Config, dataset: Dataset, tables: dict[str, Modality], split: Split
) -> RunInputs:
    """Return what a training is made from, its configuration with nothing left open (``sized``)."""
    name = config.data.target
    slices = tables[name].slices
    rows = training_share(
        split, name, slices, split.rows(name, slices, "train"), config.data.target_fraction
    )
    return RunInputs(
        sized(
            config,
            image_size=image_size(dataset, config),
            target_images=len(rows),
            on_gpu=choose_compute(config.runtime.device).device.type == "cuda",
        ),
        dataset,
        tables,
        split,
    )


@dataclass(frozen=True)
class TrainingSetup:
    """Everything that a training needs.

    Attributes:
        inputs: What it was made from.
        data: What its steps show; translations of a first stage take the place of sources.
        image_size: Side of the images, pixels.
        head: What the predictor's outputs mean.
        compute: Device and precision.
        learner: The method, its networks on the device.
    """

    inputs: RunInputs
    data: Data
    image_size: int
    head: LabelTransform
    compute: Compute
    learner: Learner

    @property
    def config(self) -> Config:
        """The configuration, with nothing left open."""
        return self.inputs.config


def set_up(inputs: RunInputs, listener: Listener = silent) -> TrainingSetup:
    """Return data, head and learner of a training.

    The listener hears of a replaced precision, and of images that ``data.match_labels`` leaves out.

    Raises:
        ConfigError: Something in the configuration cannot be.
        DataError: The split leaks, or leaves a modality without training data.
    """
    config = inputs.config
    method = find_method(config.method)
    data = make_data(inputs.dataset, inputs.tables, inputs.split, config)
    if method.stand_in is not None:
        sources = config.data.sources
        data = data.showing({name: method.stand_in(name, data, config) for name in sources})
    if config.data.match_labels and method.shows_both:
        data = matched(data, config, inputs.dataset.info.task, listener)
    size = image_size(inputs.dataset, config)
    runtime = config.runtime
    compute = choose_compute(runtime.device, runtime.precision, listener=listener)
    scale_from = {
        "target": (config.data.target,),
        "sources": config.data.sources,
        "all": (*config.data.sources, config.data.target),
    }[method.scale_from]
    head = fit_label_transform(
        inputs.dataset.info.task, [data.train[name].labels for name in scale_from]
    )
    counts = {name: len(slices) for name, slices in data.train.items()}
    learner = build_learner(config, head, size, compute, counts=counts)
    return TrainingSetup(inputs, data, size, head, compute, learner)
