"""What a package needs to add parts to medxlate. This module is the whole protocol, version 1.

A package names its parts as entry points in its ``pyproject.toml``; medxlate finds them where the
package is installed, and imports one only when a configuration, an option or a model names it. The
object behind an entry point is

- ``medxlate.methods``: a `Method`, whose ``build`` is a function of `Ingredients`
- ``medxlate.generators``: a function of a `GeneratorShape` that returns a ``torch.nn.Module`` from
  images [B, 1, H, W] in [-1, 1] to images of the same shape and range, H and W multiples of 4
- ``medxlate.predictors``: a function without arguments that returns a ``torch.nn.Module`` from
  images [B, 1, S, S] in [-1, 1] to features [B, D], with D as its attribute ``num_features``; a
  linear layer follows
- ``medxlate.losses``: a `Loss`, whose ``compute`` is a function of `StepImages`
- ``medxlate.recipes``: an `IntensityRecipe`, whose ``limits`` is a function of a `Stack`
- ``medxlate.layouts``: a function of a modality's name, a folder and `PrepareOptions` that returns
  these options, filled in where the user left them open

A class may stand for a function that builds. Networks are built under any device, with new weights
drawn by torch, and are saved and loaded by their ``state_dict``.

All of these functions, except those of layouts, may have settings: keyword-only arguments with
defaults, whose values are numbers, booleans or short texts (`Setting`). A user gives them as
``--set plugins.NAME.key=value``, those of recipes as ``--recipe-set key=value``; they are kept with
the run, the dataset and the model.

Names are letters, digits, - and _. A name that medxlate has itself stays medxlate's. What fails in
a plug-in is reported as a `PluginError` that names it; raise a `MedxlateError` of your own where a
user can fix what is wrong.

A change of the protocol that breaks packages gets new groups (``medxlate.losses.2``), so that a
package made for another protocol is refused by name, and never misused.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medxlate.base.errors import ConfigError, DataError, ImageError, MedxlateError
    from medxlate.base.plugins import PROTOCOL, PluginError, Setting
    from medxlate.config import Config
    from medxlate.dataset.loading import Batch, Slices
    from medxlate.dataset.options import PrepareOptions
    from medxlate.dataset.training_data import Data
    from medxlate.images.recipes import IntensityRecipe, sample
    from medxlate.images.stack import Stack
    from medxlate.method.added import Loss, StepImages
    from medxlate.method.generator import Generator, GeneratorShape
    from medxlate.method.label_transform import LabelTransform
    from medxlate.method.learner import Learner
    from medxlate.method.registry import Ingredients, Method, joint, new_predictor, supervised
    from medxlate.method.supervised import Supervised

_HOMES = {
    "Batch": "dataset.loading",
    "Config": "config",
    "ConfigError": "base.errors",
    "Data": "dataset.training_data",
    "DataError": "base.errors",
    "Generator": "method.generator",
    "GeneratorShape": "method.generator",
    "ImageError": "base.errors",
    "Ingredients": "method.registry",
    "IntensityRecipe": "images.recipes",
    "LabelTransform": "method.label_transform",
    "Learner": "method.learner",
    "Loss": "method.added",
    "MedxlateError": "base.errors",
    "Method": "method.registry",
    "PROTOCOL": "base.plugins",
    "PluginError": "base.plugins",
    "PrepareOptions": "dataset.options",
    "Setting": "base.plugins",
    "Slices": "dataset.loading",
    "Stack": "images.stack",
    "Supervised": "method.supervised",
    "StepImages": "method.added",
    "joint": "method.registry",
    "new_predictor": "method.registry",
    "sample": "images.recipes",
    "supervised": "method.registry",
}

__all__ = [
    "PROTOCOL",
    "Batch",
    "Config",
    "ConfigError",
    "Data",
    "DataError",
    "Generator",
    "GeneratorShape",
    "ImageError",
    "Ingredients",
    "IntensityRecipe",
    "LabelTransform",
    "Learner",
    "Loss",
    "MedxlateError",
    "Method",
    "PluginError",
    "PrepareOptions",
    "Setting",
    "Slices",
    "Stack",
    "StepImages",
    "Supervised",
    "joint",
    "new_predictor",
    "sample",
    "supervised",
]


def __getattr__(name: str) -> Any:
    """Load a name from its home on first use: a recipe needs no torch."""
    if name in _HOMES:
        return getattr(import_module(f"medxlate.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'medxlate.extend' has no attribute '{name}'")


def __dir__() -> list[str]:
    """Return the public names, also of what is not loaded yet."""
    return sorted({*globals(), *__all__})
