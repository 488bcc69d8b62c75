"""The keys of a training's configuration, and their defaults.

The defaults are the paper's (section 4.2), but for the weight of the predictor's loss
(``lambda_predict``, ``predict_unit``, ``fake_weight``; preset ``paper`` has the paper's); where it
is silent they are the CycleGAN authors' (Zhu et al. 2017, section 4 and appendix 7.1).
``docs/reference/config.md`` explains each key.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from medxlate.base.plugins import Settings
from medxlate.base.records import is_plain

Width = Literal[0] | Annotated[int, Field(ge=4)]
Upsample = Literal["transposed", "nearest", "bilinear"]
Compiling = Literal["auto", "on", "off"]
Skip = Literal["none", "global", "unet", "both"]
DiscriminatorNorm = Literal["instance", "none"]
PredictorNorm = Literal["batch", "group"]


class ConfigSection(BaseModel):
    """Base of all sections: immutable; unknown keys and infinite numbers are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class DataConfig(ConfigSection):
    """Which images are used."""

    folder: str = Field("data", description="The dataset folder that `prepare` wrote.")
    sources: tuple[str, ...] = Field((), description="Source modalities, as prepared.")
    target: str = Field("", description="Target modality, as prepared.")
    oracle: str = Field(
        "",
        description="Modality with the true target images of the source patients, in a paired "
        "data set. Only the method `oracle` sees them.",
    )
    where: tuple[str, ...] = Field(
        (),
        max_length=100,
        description="Which images of every modality to use: expressions over the label and the "
        "columns of `prepare --keep`, such as `age >= 18`, or `ct: site in ['A', "
        "'B']` for one modality. An image must satisfy all of them.",
    )
    image_size: int | None = Field(
        None,
        ge=32,
        multiple_of=4,
        description="Side of the square training images, in pixels; none: the dataset's.",
    )
    target_fraction: float = Field(
        1.0, gt=0, le=1, description="Fraction of the target's training patients to use."
    )
    source_fraction: float = Field(
        1.0, gt=0, le=1, description="Fraction of each source's training patients to use."
    )
    match_labels: bool = Field(
        False,
        description="Label-matched sampling: with each target image, a step shows a source "
        "image of the same class or of the nearest value, so that discriminators do"
        " not mistake a difference in labels for one in modality (Cohen et al. "
        "2018, Jiang et al. 2020). Source images whose label the target lacks are "
        "left out. Not in the paper.",
    )

    @model_validator(mode="after")
    def _distinct(self) -> DataConfig:
        if len(set(self.sources)) != len(self.sources):
            raise ValueError("sources lists a modality twice")
        if not all(map(is_plain, filter(None, (*self.sources, self.target, self.oracle)))):
            raise ValueError("the name of a modality must not be a path")
        if self.target and self.target in self.sources:
            raise ValueError(f"'{self.target}' is both source and target")
        if self.oracle and self.oracle in (*self.sources, self.target):
            raise ValueError(f"oracle '{self.oracle}' is a source or the target itself")
        return self


class SplitConfig(ConfigSection):
    """How patients are divided into training, validation and test."""

    policy: Literal["patient", "image"] = Field(
        "patient",
        description="What the split divides. patient: no patient is in two parts. image: "
        "slices, as in the paper; slices of one patient can then be in both "
        "training and test, which is an easier problem than predicting new patients.",
    )
    train: float = Field(
        0.7, gt=0, lt=1, description="Fraction of the target's patients for training."
    )
    val: float = Field(
        0.1,
        gt=0,
        lt=1,
        description="Fraction of the target's patients for validation, which chooses the best "
        "predictor.",
    )
    test: float = Field(
        0.2, gt=0, lt=1, description="Fraction of the target's patients for the final evaluation."
    )
    val_patients: int | None = Field(
        None,
        ge=1,
        description="Number of target patients for validation, instead of the fraction `val`.",
    )
    test_patients: int | None = Field(
        None,
        ge=1,
        description="Number of target patients for testing, instead of the fraction `test`.",
    )
    file: str = Field(
        "",
        description="File with a split of your own: a run's split.json, or a table with the "
        "columns patient (IDs as in the images) and part (train, val or test).",
    )
    column: str = Field(
        "",
        description="Column of `prepare --keep` with a split of your own: train, val or test.",
    )
    sources: Literal["all", "divided"] = Field(
        "all",
        description="How patients without a target image are divided. all: all of them train, "
        "except the fractions `source_val` and `source_test`. divided: by the "
        "target's fractions; a large test part then also removes source patients "
        "from training. Patients who have a target image, or share an image with "
        "such a patient, always stay in that patient's part.",
    )
    source_val: float = Field(
        0.05,
        ge=0,
        lt=1,
        description="With sources = all: fraction of the source patients for validation "
        "(`transfer`'s first stage, audits).",
    )
    source_test: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="With sources = all: fraction of the source patients whose translations are"
        " evaluated (FID, audits, other metrics). 0: only those of the target's "
        "test patients.",
    )
    seed: int = Field(0, ge=0, description="Random seed of the split.")

    @model_validator(mode="after")
    def _whole(self) -> SplitConfig:
        if abs(self.train + self.val + self.test - 1) > 1e-6:
            raise ValueError("train, val and test must add up to 1")
        if self.source_val + self.source_test >= 1:
            raise ValueError("source_val and source_test leave no source patient to train on")
        if self.policy == "image" and (self.val_patients or self.test_patients):
            raise ValueError("val_patients and test_patients need split.policy=patient")
        if self.file and self.column:
            raise ValueError("file and column each define a split; use only one of them")
        if self.is_given and (self.val_patients or self.test_patients):
            raise ValueError(
                "val_patients and test_patients apply only to a random split, not to a given one"
            )
        if self.column and self.policy == "image":
            raise ValueError(
                "a split given by a column divides patients; it needs split.policy=patient"
            )
        return self

    @property
    def is_given(self) -> bool:
        """Whether the split is given, instead of drawn."""
        return bool(self.file or self.column)


class ModelConfig(ConfigSection):
    """The networks (paper, section 4.2)."""

    generator: str = Field(
        "resnet",
        description="Architecture of the generators: resnet, or the name of a plug-in.",
    )
    generator_width: Width = Field(
        64,
        description="Channels after the generators' first convolution; 0: 64 on a GPU, "
        "otherwise 16.",
    )
    generator_blocks: int | None = Field(
        None,
        ge=0,
        description="Residual blocks of the generators; none: 6 up to 128 px, 9 above; 0: as "
        "none on a GPU, otherwise 3.",
    )
    upsample: Upsample = Field(
        "transposed",
        description="How the generators double height and width. transposed: transposed "
        "convolution, as published. nearest, bilinear: interpolation followed by a "
        "convolution, which leaves no checkerboard pattern (Odena et al. 2016).",
    )
    skip: Skip = Field(
        "none",
        description="Skip connections of the generators. none: as published. global: adds the "
        "input to the output, so that the generator learns the difference. unet: "
        "joins features before downsampling to those after upsampling (Ronneberger "
        "et al. 2015). both: global and unet.",
    )
    discriminator_width: Width = Field(
        64,
        description="Channels after the discriminators' first convolution; 0: 64 on a GPU, "
        "otherwise 16.",
    )
    discriminator_layers: int = Field(
        3,
        ge=0,
        le=6,
        description="Stride-2 convolutions of the discriminators. With 1, 2, 3 or 4 of them, a "
        "discriminator judges patches of 16, 34, 70 (as published, for 256 px) or "
        "142 pixels. 0: as many as keep patches within 30 % of the image's side, "
        "from 1 to 3.",
    )
    discriminator_norm: DiscriminatorNorm = Field(
        "instance",
        description="Normalisation in the discriminators. instance: as published. none: the "
        "discriminators then see absolute grey levels, which instance norm hides.",
    )
    predictor: str = Field(
        "resnet50",
        description="The predictor: a network's name in timm, or the name of a plug-in; auto: "
        "resnet50 on a GPU, otherwise the small test_resnet.",
    )
    predictor_norm: PredictorNorm = Field(
        "batch",
        description="Normalisation in the predictor. batch: batch norm, as in timm and as "
        "published. group: group norm instead (Wu and He 2018), which does not "
        "depend on the batch; use it with optimizer.batch_size = 1, where batch "
        "norm would use the statistics of single images.",
    )
    batch_norm: Literal["joint", "separate"] = Field(
        "joint",
        description="Statistics of the predictor's batch norm in training. joint: over "
        "translated and real images together, as in the paper's combined training "
        "set. separate: over each of them alone; predictions then use those of the "
        "real images (Chang et al. 2019). No effect on multitask and dann, or with "
        "predictor_norm = group.",
    )
    pretrained: str | None = Field(
        None,
        description="Initial weights of the predictor: none (random), `imagenet` (timm's, from "
        "its cache or downloaded), or a local .safetensors file.",
    )


class ObjectiveConfig(ConfigSection):
    """Weights of the objective (paper, equations 1 to 3), and options for few images."""

    lambda_cycle: float = Field(10.0, ge=0, description="Weight of the cycle loss.")
    lambda_predict: float = Field(
        0.025,
        ge=0,
        description="Weight of the predictor's loss in the gradient that reaches the "
        "generators; the predictor's own gradient is not scaled. The paper's 0.001 "
        "applies to a loss in years squared (see predict_unit).",
    )
    predict_unit: Literal["standardised", "label"] = Field(
        "standardised",
        description="Unit of the loss that lambda_predict weighs. standardised: a prediction "
        "that ignores the image has a loss of 1 (squared error of labels with "
        "standard deviation 1; cross-entropy divided by ln K), so that one weight "
        "suits every label. label: the label's own unit, as in the paper.",
    )
    fake_weight: Annotated[float, Field(ge=0)] | Literal["count"] = Field(
        1.0,
        description="Weight of each source's mean loss in equation 2; the target's is 1. count:"
        " the number of the source's training images divided by the target's, so "
        "that each image weighs the same, as in the paper's sums.",
    )
    lambda_identity: float = Field(
        0.0, ge=0, description="Weight of the identity loss. Not in the paper's objective."
    )
    lambda_structure: float = Field(
        0.0,
        ge=0,
        description="Weight of the structure loss, which keeps a translation close to its "
        "source's anatomy: the difference between their MIND descriptors (Heinrich "
        "et al. 2012). Not in the paper's objective.",
    )
    losses: dict[str, Annotated[float, Field(ge=0)]] = Field(
        {},
        description="Plug-ins' losses to add to the translators' objective, by name, with their"
        " weights: `--set objective.losses.gradient-difference=1`.",
    )
    one_sided: bool = Field(
        False,
        description="Train only G and D_t, without F and D_s, at about half the cost. Without "
        "the cycle loss, something else must preserve the anatomy: model.skip, "
        "lambda_identity or lambda_structure.",
    )
    diffaugment: tuple[Literal["brightness", "contrast", "translation", "cutout"], ...] = Field(
        (),
        description="Random changes of the images before the discriminators see them "
        "(DiffAugment, Zhao et al. 2020); none: as in the paper.",
    )
    noise: Literal["none", "target"] = Field(
        "none",
        description="Noise added to translations before the target's discriminator and the "
        "predictor see them. target: as much as the target's images have. none: as "
        "in the paper.",
    )
    rescale: float = Field(
        0.0,
        ge=0,
        lt=0.5,
        description="The predictor sees each translation enlarged or reduced at random by up to"
        " this fraction, before noise is added. It then does not depend on the "
        "exact size at which a generator draws an organ, nor on a size that reveals"
        " the label. 0: unchanged, as in the paper.",
    )
    ema_fakes: bool = Field(
        False,
        description="Whether the predictor learns from translations of the generators' moving "
        "averages (optimizer.ema_decay), which fluctuate less.",
    )

    @model_validator(mode="after")
    def _sided(self) -> ObjectiveConfig:
        if self.one_sided and self.lambda_cycle > 0:
            raise ValueError(
                "one-sided training has no F, so no cycle loss: set objective.lambda_cycle=0 or "
                "objective.one_sided=false"
            )
        return self


class OptimizerConfig(ConfigSection):
    """Adam and the training schedule (paper, section 4.2)."""

    epochs: int = Field(200, ge=1, description="Passes over the largest modality.")
    steps_per_epoch: int | None = Field(
        None, ge=1, description="Steps per epoch; none: one pass over the largest modality."
    )
    constant_share: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Fraction of the epochs before the learning rates begin to decay linearly "
        "to 0.",
    )
    keep: Literal["best", "last"] = Field(
        "best",
        description="Which predictor to keep. best: that with the lowest validation error, as "
        "in the paper. last: that of the last step; better with few validation "
        "patients, where the lowest error is largely due to chance.",
    )
    batch_size: int = Field(
        1,
        ge=0,
        description="Images per modality in a step; 0: half of the target's training images, "
        "from 1 to 8.",
    )
    translator_lr: float = Field(
        2e-4, gt=0, description="Learning rate of the generators and discriminators."
    )
    translator_betas: tuple[float, float] = Field(
        (0.5, 0.999), description="Adam's betas for the generators and discriminators."
    )
    predictor_lr: float = Field(1e-3, gt=0, description="Learning rate of the predictor.")
    predictor_betas: tuple[float, float] = Field(
        (0.9, 0.999), description="Adam's betas for the predictor."
    )
    buffer_size: int = Field(
        50, ge=0, description="Images in each discriminator's buffer of earlier translations."
    )
    autoencode: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Fraction of the epochs, at the start, in which the generators learn to "
        "reproduce images of both modalities, without discriminators. Translation "
        "then starts from an image instead of noise. Not in the paper.",
    )
    warmup: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Fraction of the epochs before the predictor starts to learn, so that it "
        "does not learn the flaws of early translations. Methods without "
        "translators skip these epochs; every predictor makes the same number of "
        "updates.",
    )
    translator_share: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Fraction of the epochs in which the translators learn. They are then "
        "frozen while the predictor continues to learn from their translations, at "
        "a fraction of the cost.",
    )
    finetune_share: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Fraction of the steps, at the end, in which the predictor learns from real"
        " target images only, at a tenth of its learning rate.",
    )
    ema_decay: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Decay of the moving average of the generators' weights, such as 0.999. "
        "Samples and the exported translators then use the averages. 0: no "
        "averages, as in the paper.",
    )

    @model_validator(mode="after")
    def _order(self) -> OptimizerConfig:
        if self.warmup and self.warmup + self.finetune_share >= 1:
            raise ValueError(
                "translated images never reach the predictor: warmup and finetune_share leave no "
                "step between them"
            )
        if self.autoencode >= self.translator_share:
            raise ValueError(
                "the translators would only learn to reproduce images, never to translate: "
                "autoencode must be below translator_share"
            )
        if self.autoencode > self.warmup:
            raise ValueError(
                "the predictor would learn from reproduced images, not from translated ones: "
                "autoencode must not exceed warmup"
            )
        if self.translator_share < self.warmup:
            raise ValueError(
                "nothing would be trained between the end of the translators and the start of the "
                "predictor: translator_share must be at least warmup"
            )
        return self

    @field_validator("translator_betas", "predictor_betas")
    @classmethod
    def _betas(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not all(0 <= beta < 1 for beta in value):
            raise ValueError("betas must lie in [0, 1)")
        return value


class AugmentConfig(ConfigSection):
    """Augmentations, as baselines or on top of other methods (paper, section 4.3)."""

    flip: float = Field(
        0.5, ge=0, le=1, description="simple-augment: probability of mirroring an image."
    )
    crop: float = Field(
        0.8,
        gt=0,
        le=1,
        description="simple-augment: smallest fraction of the area that a crop keeps.",
    )
    rotate: float = Field(
        15.0, ge=0, le=180, description="simple-augment: largest rotation, in degrees."
    )
    shift: float = Field(
        0.1, ge=0, lt=1, description="simple-augment: largest shift, as a fraction of the side."
    )
    jitter: float = Field(
        0.2, ge=0, lt=1, description="simple-augment: largest change of brightness and contrast."
    )
    erase: float = Field(
        0.5, ge=0, le=1, description="random-erasing: probability of erasing a patch."
    )
    erase_area: tuple[float, float] = Field(
        (0.02, 0.4),
        description="random-erasing: smallest and largest fraction of the area to erase.",
    )
    erase_ratio: tuple[float, float] = Field(
        (0.3, 3.33), description="random-erasing: smallest and largest aspect ratio of the patch."
    )

    @field_validator("erase_area", "erase_ratio")
    @classmethod
    def _ordered(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 < value[0] <= value[1]:
            raise ValueError("both values must be above 0, the smaller one first")
        return value


class BaselinesConfig(ConfigSection):
    """Settings of single baselines (paper, section 4.3)."""

    first_epochs: int | None = Field(
        None,
        ge=1,
        description="Epochs of the first stage: the translator of `cyclegan`, the source "
        "predictor of `transfer`. none: optimizer.epochs, for translators times "
        "optimizer.translator_share. `transfer` skips the fraction optimizer.warmup"
        " of them.",
    )
    multitask_weight: float = Field(
        1.0, ge=0, description="multitask: weight of the sources' loss; the target's is 1."
    )
    dann_weight: float = Field(
        1.0, ge=0, description="dann: final weight of the reversed gradient (lambda)."
    )
    dann_gamma: float = Field(
        10.0, gt=0, description="dann: how steeply that weight rises from 0 (gamma)."
    )
    dann_width: int = Field(
        1024,
        ge=1,
        description="dann: units in each of the two hidden layers of the domain classifier.",
    )


class RuntimeConfig(ConfigSection):
    """Seed, hardware, logging and checkpoints: settings that do not change the method."""

    seed: int = Field(
        0, ge=0, description="Random seed for initial weights, data order and image buffers."
    )
    device: str = Field("auto", description="Device to train on: auto, cpu, cuda, cuda:N or mps.")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto",
        description="Numerical precision; auto: bf16 where the hardware supports it natively, "
        "otherwise fp32.",
    )
    compile: Compiling = Field(
        "auto",
        description="torch.compile. auto: on a GPU, in one process, for 2,000 steps or more. "
        "off: no CUDA graphs either.",
    )
    accumulate: int = Field(
        1,
        ge=1,
        description="Number of parts in which a batch is computed, with their gradients added "
        "up: uses less memory, but batch norm sees only a part at a time. Raised "
        "automatically when memory runs out.",
    )
    recompute: bool = Field(
        False,
        description="Recompute the generators' residual blocks in the backward pass instead of "
        "storing their activations: less memory, more time, the same gradients.",
    )
    offline: bool = Field(
        False,
        description="Open no network connection; weights that are not on this machine are an "
        "error.",
    )
    trackers: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = Field(
        (), description="Experiment trackers to log to (`--track`)."
    )
    log_every: int = Field(50, ge=1, description="Steps between two records of the losses.")
    samples_every: int = Field(5, ge=1, description="Epochs between two sample grids.")
    checkpoint_every: int = Field(1, ge=1, description="Epochs between two checkpoints.")
    checkpoint_steps: int | None = Field(
        None,
        ge=1,
        description="Steps between two checkpoints, also within an epoch; none: no limit.",
    )
    checkpoint_minutes: float | None = Field(
        10.0,
        gt=0,
        description="Minutes between two checkpoints, also within an epoch; none: no limit.",
    )
    keep_checkpoints: int = Field(
        0,
        ge=0,
        description="Number of the newest checkpoints to keep, in addition to the best ones. 0:"
        " two during training, in case one is damaged, and one afterwards.",
    )
    deterministic: bool = Field(
        False,
        description="Use only algorithms that give the same bits every time, and no CUDA "
        "graphs. Needed on a GPU to repeat a run bit for bit; on a processor, runs "
        "always repeat.",
    )
    sync_bn: bool = Field(
        True,
        description="With several processes: compute the predictor's batch norm statistics over"
        " the whole batch, as a single process does, instead of over each process's"
        " part.",
    )


class Config(ConfigSection):
    """Everything that decides a training run."""

    method: str = Field(
        "joint",
        description="joint (the paper's), a baseline, or the name of a plug-in. "
        "`joint+autoaugment` adds an augmentation.",
    )
    data: DataConfig = DataConfig()
    split: SplitConfig = SplitConfig()
    model: ModelConfig = ModelConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    augment: AugmentConfig = AugmentConfig()
    baselines: BaselinesConfig = BaselinesConfig()
    runtime: RuntimeConfig = RuntimeConfig()
    plugins: dict[str, Settings] = Field(
        {},
        description="Settings of plug-ins, by plug-in: `--set plugins.NAME.key=value`.",
    )

    @model_validator(mode="after")
    def _averaged(self) -> Config:
        if self.objective.ema_fakes and not self.optimizer.ema_decay:
            raise ValueError(
                "objective.ema_fakes needs moving averages of the generators: set "
                "optimizer.ema_decay, for example to 0.99"
            )
        return self
