"""The predictor P on one-channel images: a timm network, or a plug-in's.

No other module knows timm.

Timm is imported where a network is made: it takes seconds, and ``translate`` needs none of it.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from medxlate.base.errors import ConfigError, ModelError, nearest
from medxlate.base.plugins import (
    Setting,
    blamed,
    choose,
    expected,
    find,
    names,
    with_settings,
)
from medxlate.base.tensors import load_tensors
from medxlate.config import PredictorNorm
from medxlate.method import synced_norm

# From settings of its own as keywords to a network with new weights; see ``PluginBackbone``.
BuildPredictor = Callable[..., nn.Module]
NO_PREDICTORS: Mapping[str, BuildPredictor] = {}  # all built-in ones are timm's
GROUPS = 32  # as published; fewer where the channels cannot be divided by it


class PredictorNetwork(nn.Module):
    """Map images [B, 1, H, W] in [-1, 1] to outputs [B, outputs].

    A regression has one output, the standardised label; a classification one logit a class.

    Args:
        architecture: A model's name in timm, or a plug-in's.
        outputs: Number of outputs.
        norm: ``batch``, as timm has it, or ``group``: group norm in the place of every batch norm,
            so that an image's features do not depend on the others of its batch (Wu and He 2018,
            "Group Normalization"), with up to 32 groups.
        pretrained: Initial weights: None (random), ``imagenet`` (timm's own, downloaded or
            cached by timm) or a local safetensors file.
        offline: Whether ``imagenet`` is taken from timm's cache alone.
        settings: Of the plug-in.

    Raises:
        ConfigError: There is no such network.
        ModelError: The weights cannot be had or do not fit.
        PluginError: The plug-in cannot be loaded, or fails.
    """

    def __init__(
        self,
        *,
        architecture: str = "resnet50",
        outputs: int = 1,
        norm: PredictorNorm = "batch",
        pretrained: str | None = None,
        offline: bool = False,
        settings: Mapping[str, Setting] | None = None,
    ) -> None:
        super().__init__()
        own = is_plugin(architecture)
        make = _plugin_backbone if own else _timm_backbone
        given = PredictorShape(outputs, pretrained, offline)
        self.backbone: nn.Module = make(architecture, given, settings or {})
        if pretrained not in (None, "imagenet"):
            _load_backbone(self.backbone.body if own else self.backbone, Path(pretrained))  # type: ignore[arg-type]
        if norm == "group":
            _use_group_norm(self.backbone)

    def forward(self, images: Tensor) -> Tensor:
        """Return outputs [B, outputs]."""
        output: Tensor = self.backbone(images)
        return output

    def aside(self, images: Tensor) -> Tensor:
        """Return outputs [B, outputs] for training images of another domain than the target.

        Batch norm takes these images' own statistics, and the running ones, by which target images
        are predicted, stay as they are (domain-specific batch norm; Chang et al. 2019, "Domain-
        Specific Batch Normalization for Unsupervised Domain Adaptation", with shared weights).
        """
        norms = [layer for layer in self.modules() if isinstance(layer, _BatchNorm)]
        momenta = [layer.momentum for layer in norms]
        for layer in norms:
            layer.momentum = 0.0
        try:
            output: Tensor = self(images)
        finally:
            for layer, momentum in zip(norms, momenta, strict=True):
                layer.momentum = momentum
        return output

    def check_size(self, image_size: int) -> None:
        """Raise ConfigError where the network cannot take images of this size."""
        device = next(self.parameters()).device
        was_training = self.training
        self.eval()
        try:
            with torch.inference_mode():
                self(torch.zeros(1, 1, image_size, image_size, device=device))
        except (AssertionError, RuntimeError, ValueError) as problem:
            raise ConfigError(
                f"The predictor does not accept images of {image_size} px: {problem}",
                "Choose another model.predictor or data.image_size.",
            ) from None
        finally:
            self.train(was_training)

    @property
    def feature_width(self) -> int:
        """Number of pooled features (D)."""
        # Some networks have a layer between their last features and the classifier.
        return int(getattr(self.backbone, "head_hidden_size", None) or self.backbone.num_features)  # type: ignore[arg-type]

    def classify(self, features: Tensor) -> Tensor:
        """Return outputs [B, outputs] for pooled features [B, D]."""
        output: Tensor = self.backbone.get_classifier()(features)  # type: ignore[operator]
        return output

    def features(self, images: Tensor) -> Tensor:
        """Return the pooled features [B, D] that the last layer sees."""
        pooled: Tensor = self.backbone.forward_head(  # type: ignore[operator]
            self.backbone.forward_features(images),  # type: ignore[operator]
            pre_logits=True,
        )
        return pooled


@dataclass(frozen=True)
class PredictorShape:
    """What a predictor is built from; see ``PredictorNetwork``."""

    outputs: int
    pretrained: str | None = None
    offline: bool = False


class PluginBackbone(nn.Module):
    """A plug-in's network with a last layer, under the names by which timm's networks are used.

    Args:
        body: Maps images [B, 1, H, W] to features [B, D]; its attribute ``num_features`` is D.
        outputs: Number of outputs.
    """

    def __init__(self, body: nn.Module, outputs: int) -> None:
        super().__init__()
        self.body = body
        self.num_features = int(body.num_features)  # type: ignore[arg-type]
        self.head = nn.Linear(self.num_features, outputs)

    def forward(self, images: Tensor) -> Tensor:
        """Return outputs [B, outputs]."""
        output: Tensor = self.head(self.body(images))
        return output

    def forward_features(self, images: Tensor) -> Tensor:
        """Return features [B, D]."""
        features: Tensor = self.body(images)
        return features

    def forward_head(self, features: Tensor, *, pre_logits: bool) -> Tensor:
        """Return the features as they are, or the outputs."""
        output: Tensor = features if pre_logits else self.head(features)
        return output

    def get_classifier(self) -> nn.Module:
        """Return the last layer."""
        return self.head


def is_plugin(architecture: str) -> bool:
    """Return whether a predictor of this name is a plug-in's; timm's names win."""
    if find("predictors", architecture) is None:
        return False
    return not import_timm().is_model(architecture)


def _plugin_backbone(
    architecture: str, given: PredictorShape, settings: Mapping[str, Setting]
) -> nn.Module:
    if given.pretrained == "imagenet":
        raise ConfigError(
            f"The predictor '{architecture}' is a plug-in's, and timm has no weights for it.",
            "Leave --pretrained imagenet out, or name a .safetensors file of its own weights.",
        )
    build = choose("predictors", architecture, NO_PREDICTORS)
    build = with_settings("predictors", architecture, build, settings)
    with blamed("predictors", architecture):
        body = expected(build(), nn.Module, "predictors", architecture)
        return PluginBackbone(body, given.outputs)


def _timm_backbone(
    architecture: str, given: PredictorShape, settings: Mapping[str, Setting]
) -> nn.Module:
    timm = import_timm()
    if not timm.is_model(architecture):
        raise ConfigError(
            f"timm has no model '{architecture}' (model.predictor), and no plug-in has.",
            nearest(architecture, [*map(str, timm.list_models()), *names("predictors")]),
        )
    is_imagenet = given.pretrained == "imagenet"
    kept = _kept_weights(architecture) if given.offline and is_imagenet else None
    try:
        network: nn.Module = timm.create_model(
            architecture,
            pretrained=is_imagenet,
            pretrained_cfg_overlay=None if kept is None else {"file": kept},
            in_chans=1,
            num_classes=given.outputs,
        )
    except (OSError, RuntimeError) as problem:
        raise ModelError(
            f"The pretrained weights of {architecture} could not be loaded: {problem}.",
            "On a machine without internet, copy them there as a .safetensors file and give it "
            "with --pretrained FILE.",
        ) from None
    return network


def import_timm() -> ModuleType:
    """Return timm; not first where networks are made without memory, for its modules make tensors.

    For training scripts of its own timm imports wandb where that is installed: half a second.
    """
    with _hidden("wandb"):
        import timm
    module: ModuleType = timm
    return module


@contextmanager
def _hidden(name: str) -> Iterator[None]:
    """Let a package seem not to be installed, unless it is imported already."""
    hide = name not in sys.modules
    if hide:
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if hide:
            del sys.modules[name]


def synchronise(predictor: PredictorNetwork) -> None:
    """Give batch norms the statistics of all processes' images; names and values of tensors stay.

    On GPUs by torch's own layer, which does not run on processors.
    """
    if next(predictor.parameters()).is_cuda:
        from timm import layers

        layers.convert_sync_batchnorm(predictor)  # type: ignore[attr-defined,no-untyped-call]
    else:
        synced_norm.synchronise(predictor)


def has_batch_norm(architecture: str, settings: Mapping[str, Setting] | None = None) -> bool:
    """Return whether a predictor has batch norms; False for an unknown one."""
    own = is_plugin(architecture)
    if not own and not import_timm().is_model(architecture):
        return False
    # Without memory and weights; a plug-in's own code may need them.
    with nullcontext() if own else torch.device("meta"):
        network = PredictorNetwork(architecture=architecture, settings=settings)
    return any(isinstance(layer, _BatchNorm) for layer in network.modules())


def _use_group_norm(network: nn.Module) -> None:
    """Replace all batch norms of a network; scale and shift are taken over."""
    for name, child in network.named_children():
        if not isinstance(child, _BatchNorm):
            _use_group_norm(child)
            continue
        norm = nn.GroupNorm(math.gcd(GROUPS, child.num_features), child.num_features, child.eps)
        norm.weight, norm.bias = child.weight, child.bias
        # What timm's joined layers do after the norm.
        after = [getattr(child, each) for each in ("drop", "act") if hasattr(child, each)]
        setattr(network, name, nn.Sequential(norm, *after) if after else norm)


def _kept_weights(architecture: str) -> str:
    """Return timm's own copy of a model's weights; no connection is opened.

    Raises:
        ModelError: There is none.
    """
    from huggingface_hub import try_to_load_from_cache

    found = import_timm().get_pretrained_cfg(architecture)
    hub = getattr(found, "hf_hub_id", None)
    kept = try_to_load_from_cache(hub, "model.safetensors") if hub else None
    if not isinstance(kept, str):
        raise ModelError(
            f"The pretrained weights of {architecture} are not on this machine, and "
            "runtime.offline forbids downloading them.",
            f"Download the model.safetensors of {hub or architecture} on another machine and give "
            "it with --pretrained FILE.",
        )
    return kept


def _load_backbone(backbone: nn.Module, file: Path) -> None:
    """Load weights by name; colour stems are summed to one channel, other heads left out."""
    state = load_tensors(
        file, hint="Give the model.safetensors of a timm model, as model hubs have it."
    )
    own = backbone.state_dict()
    fitting: dict[str, Tensor] = {}
    for name, value in state.items():
        if name not in own:
            continue
        if value.ndim == 4 and value.shape[1] == 3 and own[name].shape[1] == 1:
            value = value.sum(dim=1, keepdim=True)  # as timm does for in_chans=1
        if value.shape == own[name].shape:
            fitting[name] = value
    head = {name for name in own if name.split(".")[0] in ("fc", "head", "classifier")}
    missing = set(own) - set(fitting) - head
    missing -= {name for name in own if name.endswith("num_batches_tracked")}
    if missing:
        raise ModelError(
            f"{file} does not contain the weights of this network: {len(missing)} are missing, "
            f"such as {min(missing)}.",
            "Check that model.predictor names the network of this file.",
        )
    backbone.load_state_dict(fitting, strict=False)
