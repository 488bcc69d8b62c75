"""The keys of the networks."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from medxlate.config.section import Section

Width = Literal[0] | Annotated[int, Field(ge=4)]
Upsample = Literal["transposed", "nearest", "bilinear"]
Skip = Literal["none", "global", "unet", "both"]
DiscriminatorNorm = Literal["instance", "none"]
PredictorNorm = Literal["batch", "group"]


class ModelConfig(Section):
    """The networks (paper, section 4.2)."""

    generator: str = Field(
        "resnet",
        description="Architecture of the generators, by its name in `method/generator.py`: resnet.",
    )
    generator_width: Width = Field(
        64, description="Channels after the first convolution; 0: 64 on a GPU, else 16."
    )
    generator_blocks: int | None = Field(
        None,
        ge=0,
        description="Residual blocks; none: 6 up to 128 px, 9 above; 0: as none on a GPU, else 3.",
    )
    upsample: Upsample = Field(
        "transposed",
        description="How the generators double height and width: a transposed convolution, as "
        "published, or interpolation and a convolution, which leaves no checkerboard (Odena et "
        "al. 2016).",
    )
    skip: Skip = Field(
        "none",
        description="What bypasses the generators' layers. global: they begin at their input and "
        "learn the difference; unet: features before a halving join those after the doubling "
        "(Ronneberger et al. 2015); both; none: as published.",
    )
    discriminator_width: Width = Field(
        64, description="Channels after the first convolution; 0: 64 on a GPU, else 16."
    )
    discriminator_layers: int = Field(
        3,
        ge=0,
        le=6,
        description="Convolutions of stride 2 in the discriminators, which judge patches of 16, "
        "34, 70 (as published, for 256 px), 142 pixels for 1, 2, 3, 4; 0: the most whose patches "
        "take up to 30 % of the image's side, at least 1 and at most 3.",
    )
    discriminator_norm: DiscriminatorNorm = Field(
        "instance",
        description="instance: as published; none: the discriminators see grey levels, which "
        "instance norm hides from them.",
    )
    predictor: str = Field(
        "resnet50",
        description="The predictor, by its name in timm; auto: resnet50 on a GPU, else the small "
        "test_resnet.",
    )
    predictor_norm: PredictorNorm = Field(
        "batch",
        description="batch: as timm has the predictor, and as published. group: group norm in the "
        "place of batch norm (Wu and He 2018), which knows no batch: for optimizer.batch_size = 1, "
        "where batch norm takes the statistics of single images.",
    )
    batch_norm: Literal["joint", "separate"] = Field(
        "joint",
        description="Whose statistics the predictor's batch norm takes in training. joint: of "
        "translated and real images as one batch, the combined training set of the paper; "
        "separate: of each by themselves, and predictions then go by the real ones' (Chang et al. "
        "2019). Of no effect on multitask and dann, and with "
        "predictor_norm = group.",
    )
    pretrained: str | None = Field(
        None,
        description="Initial predictor weights: none (random), `imagenet` (timm's, which timm "
        "downloads or has cached), or a local .safetensors file of them.",
    )
