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
    """What is read."""

    folder: str = Field("data", description="The dataset folder that `prepare` wrote.")
    sources: tuple[str, ...] = Field((), description="Source modalities, as prepared.")
    target: str = Field("", description="Target modality, as prepared.")
    oracle: str = Field(
        "",
        description="Modality of the dataset with true target images of the source patients, where "
        "a paired set has them: the method `oracle` shows them, and nothing else sees them.",
    )
    where: tuple[str, ...] = Field(
        (),
        max_length=100,
        description="Which images are used, of every modality: expressions over the label and the "
        "columns of `prepare --keep`, such as `age >= 18` or, for one modality alone, "
        "`ct: site in ['A', 'B']`; all of them must hold.",
    )
    image_size: int | None = Field(
        None,
        ge=32,
        multiple_of=4,
        description="Side of the square images in training, pixels; none: the dataset's.",
    )
    target_fraction: float = Field(
        1.0, gt=0, le=1, description="Share of the target's training patients that are used."
    )
    source_fraction: float = Field(
        1.0, gt=0, le=1, description="Share of each source's training patients that are used."
    )
    match_labels: bool = Field(
        False,
        description="Label-matched sampling: each target image of a step brings a source image of "
        "its class, or of the nearest value, so that discriminators do not take a difference of "
        "labels for one of modality (Cohen et al. 2018, Jiang et al. 2020). Sources with labels "
        "that the target does not have are left out. Not in the paper.",
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
    """How patients are divided."""

    policy: Literal["patient", "image"] = Field(
        "patient",
        description="patient: nobody is on two sides. image: slices are divided, as in the paper, "
        "so that a patient's slices can fall on both sides: another, easier question.",
    )
    train: float = Field(
        0.7, gt=0, lt=1, description="Share of the target's patients for training."
    )
    val: float = Field(
        0.1, gt=0, lt=1, description="Share of them for choosing the best predictor."
    )
    test: float = Field(0.2, gt=0, lt=1, description="Share of them for the final evaluation.")
    val_patients: int | None = Field(
        None, ge=1, description="Number of target patients in place of the share `val`."
    )
    test_patients: int | None = Field(
        None, ge=1, description="Number of target patients in place of the share `test`."
    )
    file: str = Field(
        "",
        description="A given split: a run's split.json, or a table with the columns patient (ids "
        "as in the files) and part (train, val or test).",
    )
    column: str = Field(
        "",
        description="A given split: a column of `prepare --keep` with train, val or test.",
    )
    sources: Literal["all", "divided"] = Field(
        "all",
        description="Patients who have no target image. all: they train, but for `source_val` and "
        "`source_test`; divided: by the target's shares, so that a large test part costs sources. "
        "Who has a target image, or shares an image with such a patient, always goes with it.",
    )
    source_val: float = Field(
        0.05,
        ge=0,
        lt=1,
        description="sources = all: share of them by which a predictor of the source is chosen "
        "(`transfer`), and that audits look at.",
    )
    source_test: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="sources = all: share of them whose translations are judged (FID, audits, "
        "figures); with 0 only those of the target's test patients are.",
    )
    seed: int = Field(0, ge=0, description="Seed of the division.")

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
        description="Architecture of the generators: resnet, or a plug-in's.",
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
        description="The predictor, by its name in timm, or a plug-in's; auto: resnet50 on a GPU, "
        "else the small test_resnet.",
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


class ObjectiveConfig(ConfigSection):
    """The weights of the objective (paper, equations 1 to 3), and what helps with few images."""

    lambda_cycle: float = Field(10.0, ge=0, description="Weight of the cycle loss.")
    lambda_predict: float = Field(
        0.025,
        ge=0,
        description="Weight of the predictor's loss in the gradient that reaches the generators; "
        "the predictor itself takes its gradient as it is. The paper's 0.001 is meant for years "
        "squared (see predict_unit).",
    )
    predict_unit: Literal["standardised", "label"] = Field(
        "standardised",
        description="What lambda_predict weighs. standardised: a loss in which an answer that "
        "ignores the image has 1 (squared errors of labels of deviation 1, cross-entropy over ln "
        "K), so that one weight serves every label; label: the loss in the label's own unit, as "
        "in the paper.",
    )
    fake_weight: Annotated[float, Field(ge=0)] | Literal["count"] = Field(
        1.0,
        description="Weight of each source's mean loss in equation 2 beside 1 for the target's. "
        "count: the source's training images over the target's, so that each image weighs the "
        "same, as in the paper's sums.",
    )
    lambda_identity: float = Field(
        0.0, ge=0, description="Weight of the identity loss; not in the paper's objective."
    )
    lambda_structure: float = Field(
        0.0,
        ge=0,
        description="Weight of the structure loss, which holds a translation to its source's "
        "anatomy: the difference of their MIND descriptors (Heinrich et al. 2012). Not in the "
        "paper's objective.",
    )
    losses: dict[str, Annotated[float, Field(ge=0)]] = Field(
        {},
        description="Losses of plug-ins that are added to the translators' objective, by name, and "
        "their weights, such as `--set objective.losses.gradient-difference=1`.",
    )
    one_sided: bool = Field(
        False,
        description="Train G and D_t alone, without F and D_s, which cost as much again. Something "
        "else than the cycle loss has to hold the anatomy: model.skip, lambda_identity, "
        "lambda_structure.",
    )
    diffaugment: tuple[Literal["brightness", "contrast", "translation", "cutout"], ...] = Field(
        (),
        description="How images are changed before the discriminators see them (DiffAugment, Zhao "
        "et al. 2020); none: as in the paper.",
    )
    noise: Literal["none", "target"] = Field(
        "none",
        description="target: translations get as much noise as the target's images have, before "
        "the target's discriminator and the predictor see them; none: as in the paper.",
    )
    rescale: float = Field(
        0.0,
        ge=0,
        lt=0.5,
        description="The predictor sees each translation enlarged or reduced by up to this share, "
        "drawn anew each time, before noise is added: what it learns then does not depend on the "
        "exact size at which a generator draws a head, nor on a size that shows the label. 0: as "
        "they are, as in the paper.",
    )
    ema_fakes: bool = Field(
        False,
        description="Whether the predictor learns from translations by the moving averages of the "
        "generators (optimizer.ema_decay), which waver less.",
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
    """Adam and its schedule (paper, section 4.2)."""

    epochs: int = Field(200, ge=1, description="Passes over the largest modality.")
    steps_per_epoch: int | None = Field(
        None, ge=1, description="Steps in an epoch; none: the largest modality's images, once."
    )
    constant_share: float = Field(
        0.5, ge=0, le=1, description="Share of the epochs before the linear decay to 0 begins."
    )
    keep: Literal["best", "last"] = Field(
        "best",
        description="Which predictor is kept: best, of the lowest validation error, as in the "
        "paper; last, of the last step: the error of a few validation patients chooses by chance.",
    )
    batch_size: int = Field(
        1,
        ge=0,
        description="Images of each modality in a step; 0: half of the target's training images, "
        "at least 1 and at most 8.",
    )
    translator_lr: float = Field(2e-4, gt=0, description="Learning rate of G, F and D.")
    translator_betas: tuple[float, float] = Field((0.5, 0.999), description="Adam's betas there.")
    predictor_lr: float = Field(1e-3, gt=0, description="Learning rate of the predictor.")
    predictor_betas: tuple[float, float] = Field((0.9, 0.999), description="Adam's betas there.")
    buffer_size: int = Field(50, ge=0, description="Images in the buffer of each discriminator.")
    autoencode: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share of the epochs at the beginning in which the generators learn to "
        "reproduce images of both modalities, without discriminators: they begin to translate from "
        "an image, and not from noise. Not in the paper.",
    )
    warmup: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share of the epochs before the predictor begins to learn: early translations "
        "would teach it their flaws. Methods without translators leave these epochs out, so that "
        "every predictor makes as many updates.",
    )
    translator_share: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Share of the epochs in which the translators learn. After it they are frozen, "
        "and the predictor goes on with their translations: such a step costs a fraction.",
    )
    finetune_share: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share of the steps at the end in which the predictor learns from real target "
        "images alone, at a tenth of its rate.",
    )
    ema_decay: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share of itself that a moving average of G's and F's weights keeps in a step, "
        "such as 0.999; samples and the exported translators are then the averages. 0: none, as "
        "in the paper.",
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
    """The augmentations that are baselines, or go on top of other methods (paper, section 4.3)."""

    flip: float = Field(0.5, ge=0, le=1, description="simple-augment: chance of a mirrored image.")
    crop: float = Field(
        0.8, gt=0, le=1, description="simple-augment: smallest share of the area that is kept."
    )
    rotate: float = Field(15.0, ge=0, le=180, description="simple-augment: most degrees of turn.")
    shift: float = Field(
        0.1, ge=0, lt=1, description="simple-augment: longest shift, share of the side."
    )
    jitter: float = Field(
        0.2, ge=0, lt=1, description="simple-augment: largest change of brightness and contrast."
    )
    erase: float = Field(0.5, ge=0, le=1, description="random-erasing: chance of an erased patch.")
    erase_area: tuple[float, float] = Field(
        (0.02, 0.4), description="random-erasing: smallest and largest share of the area."
    )
    erase_ratio: tuple[float, float] = Field(
        (0.3, 3.33), description="random-erasing: smallest and largest ratio of the sides."
    )

    @field_validator("erase_area", "erase_ratio")
    @classmethod
    def _ordered(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 < value[0] <= value[1]:
            raise ValueError("both values must be above 0, the smaller one first")
        return value


class BaselinesConfig(ConfigSection):
    """The baselines' own settings (paper, section 4.3)."""

    first_epochs: int | None = Field(
        None,
        ge=1,
        description="Epochs of what comes first: the translator of `cyclegan`, the source's "
        "predictor of `transfer`; none: optimizer.epochs, for translators times "
        "optimizer.translator_share. `transfer` leaves the share optimizer.warmup of them out.",
    )
    multitask_weight: float = Field(
        1.0, ge=0, description="multitask: weight of the sources' loss beside the target's."
    )
    dann_weight: float = Field(
        1.0, ge=0, description="dann: highest weight of the reversed gradient (lambda)."
    )
    dann_gamma: float = Field(
        10.0, gt=0, description="dann: how steeply that weight rises from 0 (gamma)."
    )
    dann_width: int = Field(
        1024, ge=1, description="dann: units in the two hidden layers of the domain classifier."
    )


class RuntimeConfig(ConfigSection):
    """What does not change the method."""

    seed: int = Field(0, ge=0, description="Seed of weights, order and image buffer.")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:N or mps.")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="auto: bf16 where the hardware multiplies it natively, else fp32."
    )
    compile: Compiling = Field(
        "auto",
        description="torch.compile: auto compiles on a GPU, in one process, for 2,000 steps or "
        "more; off also leaves CUDA graphs out.",
    )
    accumulate: int = Field(
        1,
        ge=1,
        description="Parts in which a batch is computed, their gradients added up: less memory. "
        "Batch norm then sees a part. Raised by itself where memory runs out.",
    )
    recompute: bool = Field(
        False,
        description="Compute the generators' residual blocks again in the backward pass instead "
        "of keeping what is in them: less memory, more time, the same gradients.",
    )
    offline: bool = Field(
        False,
        description="Open no connection: weights that are not on this machine are an error.",
    )
    trackers: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = Field(
        (), description="Experiment trackers that receive the training (`--track`)."
    )
    log_every: int = Field(50, ge=1, description="Steps between two entries of losses.")
    samples_every: int = Field(5, ge=1, description="Epochs between two sample grids.")
    checkpoint_every: int = Field(1, ge=1, description="Epochs between two checkpoints.")
    checkpoint_steps: int | None = Field(
        None, ge=1, description="Steps between two checkpoints, within epochs too; none: no limit."
    )
    checkpoint_minutes: float | None = Field(
        10.0,
        gt=0,
        description="Minutes between two checkpoints, within epochs too; none: no limit.",
    )
    keep_checkpoints: int = Field(
        0,
        ge=0,
        description="How many of the newest checkpoints stay; the best ones stay besides. 0: two "
        "during a training, so that there is one before a damaged one, and one when it has ended.",
    )
    deterministic: bool = Field(
        False,
        description="Use only algorithms that give the same bits each time, and no CUDA graph: "
        "needed on a GPU for runs that repeat bit for bit; the processor does so anyway.",
    )
    sync_bn: bool = Field(
        True,
        description="With several processes: take the statistics of the predictor's batch norm "
        "over the whole batch, as one process does, and not over each process's part.",
    )


class Config(ConfigSection):
    """Everything that decides a training run."""

    method: str = Field(
        "joint",
        description="joint (the paper's), a baseline, or a plug-in's; `joint+autoaugment` adds an "
        "augmentation.",
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
        description="Settings of plug-ins, by the name of each: `--set plugins.NAME.key=value`.",
    )

    @model_validator(mode="after")
    def _averaged(self) -> Config:
        if self.objective.ema_fakes and not self.optimizer.ema_decay:
            raise ValueError(
                "objective.ema_fakes needs moving averages of the generators: set "
                "optimizer.ema_decay, for example to 0.99"
            )
        return self
