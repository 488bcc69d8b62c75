"""The configuration of a training: the only home of defaults."""

from medxlate.config.resolve import PRESETS, Values, configured, flat, keys, parse, resolve
from medxlate.config.sections import (
    AugmentConfig,
    BaselinesConfig,
    Config,
    ConfigSection,
    DataConfig,
    DiscriminatorNorm,
    ModelConfig,
    ObjectiveConfig,
    OptimizerConfig,
    PredictorNorm,
    RuntimeConfig,
    Skip,
    SplitConfig,
    Upsample,
)

__all__ = [
    "PRESETS",
    "AugmentConfig",
    "BaselinesConfig",
    "Config",
    "ConfigSection",
    "DataConfig",
    "DiscriminatorNorm",
    "ModelConfig",
    "ObjectiveConfig",
    "OptimizerConfig",
    "PredictorNorm",
    "RuntimeConfig",
    "Skip",
    "SplitConfig",
    "Upsample",
    "Values",
    "configured",
    "flat",
    "keys",
    "parse",
    "resolve",
]
