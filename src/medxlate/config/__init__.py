"""The configuration of a training: the only home of defaults."""

from medxlate.config.data import DataConfig, SplitConfig
from medxlate.config.networks import (
    DiscriminatorNorm,
    ModelConfig,
    PredictorNorm,
    Skip,
    Upsample,
)
from medxlate.config.resolve import PRESETS, Values, configured, flat, keys, parse, resolve
from medxlate.config.section import Section
from medxlate.config.sections import (
    AugmentConfig,
    BaselinesConfig,
    Config,
    ObjectiveConfig,
    OptimizerConfig,
    RuntimeConfig,
)

__all__ = [
    "PRESETS",
    "AugmentConfig",
    "BaselinesConfig",
    "Config",
    "DataConfig",
    "DiscriminatorNorm",
    "ModelConfig",
    "ObjectiveConfig",
    "OptimizerConfig",
    "PredictorNorm",
    "RuntimeConfig",
    "Section",
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
