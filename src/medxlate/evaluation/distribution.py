"""How close translated images are to real ones as a set: FID, KID, IS (torch-fidelity).

The figures mean nothing without the features that they were taken from, so every name carries
them: ``fid`` alone is Inception's, ``fid[predictor]`` the trained predictor's.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torch_fidelity import calculate_metrics, register_feature_extractor
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3
from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY

from medxlate.errors import ModelError
from medxlate.models.predictor import PredictorNetwork

NAMES = ("fid", "kid", "is")
SMALL = 2048  # below it the covariance of Inception's 2048 features has no full rank
PREDICTOR = "medxlate-predictor"


@dataclass(frozen=True)
class Features:
    """Where features come from.

    Attributes:
        name: ``inception`` or ``predictor``.
        weights: Inception's weights file.
        network: The predictor.
        has_classes: Whether it also gives class logits, which IS needs.
    """

    name: str
    weights: Path | None = None
    network: PredictorNetwork | None = None
    has_classes: bool = True

    def label(self, metric: str) -> str:
        """Return the metric's name with its features: ``fid``, ``fid[predictor]``."""
        return metric if self.name == "inception" else f"{metric}[{self.name}]"


def find_inception(weights: Path | None, *, download: bool) -> Path | None:
    """Return Inception's weights: the given file, torch-fidelity's own copy, or None.

    Args:
        weights: A file that the user named.
        download: Whether torch-fidelity may download its copy where it is not there yet.

    Raises:
        ModelError: The named file does not exist, or the download failed.
    """
    if weights is not None:
        if not weights.is_file():
            raise ModelError(f"The Inception weights {weights} do not exist.")
        return weights
    cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(URL_INCEPTION_V3).name
    if cached.is_file():
        return cached
    if not download:
        return None
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(URL_INCEPTION_V3, str(cached), hash_prefix="6726825d")
    except (OSError, RuntimeError) as problem:
        raise ModelError(
            f"Inception's weights cannot be downloaded: {problem}.",
            f"Fetch {URL_INCEPTION_V3} elsewhere and name the file with --inception.",
        ) from None
    return cached


def image_metrics(
    fakes: Sequence[Tensor], reals: Sequence[Tensor], metrics: Sequence[str], features: Features
) -> dict[str, float]:
    """Compare translated images with real ones.

    Args:
        fakes: Translated images, float32 [1, S, S] in [-1, 1].
        reals: Real target images, likewise.
        metrics: Of NAMES.
        features: What they are compared by.

    Returns:
        The metrics under their names with features; IS (of the fakes) is left out where the
        features have no class logits. ``kid`` is a mean over random subsets of up to 1000 images.

    Raises:
        ModelError: Inception's weights are damaged.
    """
    wanted = [name for name in metrics if name != "is" or features.has_classes]
    if not wanted:
        return {}
    extractor: dict[str, Any] = {"feature_extractor": PREDICTOR}
    if features.name == "inception":
        _check_weights(features.weights)
        extractor = {
            "feature_extractor": "inception-v3-compat",
            "feature_extractor_weights_path": str(features.weights),
        }
    else:
        _register(features)
    smallest = min(len(fakes), len(reals))
    with contextlib.redirect_stderr(io.StringIO()):  # it prints progress of its own
        found = calculate_metrics(
            input1=_EightBit(fakes),
            input2=_EightBit(reals),
            cuda=torch.cuda.is_available(),
            batch_size=min(64, smallest),
            fid="fid" in wanted,
            kid="kid" in wanted,
            isc="is" in wanted,
            kid_subset_size=min(1000, smallest),
            isc_splits=min(10, smallest),
            cache=False,
            verbose=False,
            **extractor,
        )
    keys = {
        "fid": "frechet_inception_distance",
        "kid": "kernel_inception_distance_mean",
        "is": "inception_score_mean",
    }
    return {features.label(name): float(found[keys[name]]) for name in wanted}


class _EightBit(Dataset[Tensor]):
    """Images as torch-fidelity takes them: uint8 [3, S, S]; [-1, 1] is the recipe's window."""

    def __init__(self, images: Sequence[Tensor]) -> None:
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Tensor:
        unit = (self._images[index].clamp(-1, 1) + 1) / 2
        return (unit * 255).round().to(torch.uint8).expand(3, -1, -1)


def _check_weights(path: Path | None) -> None:
    """Refuse a file that is more than tensors; torch-fidelity itself would unpickle anything."""
    assert path is not None
    try:
        torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as problem:  # pickle, zipfile and torch each raise kinds of their own
        first = str(problem).splitlines()[0] if str(problem) else type(problem).__name__
        raise ModelError(f"{path} holds no Inception weights: {first}") from None


def _register(features: Features) -> None:
    """Make the predictor known to torch-fidelity as a feature extractor."""
    assert features.network is not None
    network: PredictorNetwork = features.network

    class PredictorFeatures(FeatureExtractorBase):  # type: ignore[misc]
        """The predictor's pooled features and, for classes, its logits."""

        def __init__(self, name: str, features_list: list[str], **_: Any) -> None:
            super().__init__(name, features_list)

        def forward(self, images: Tensor) -> tuple[Tensor, ...]:
            """Return the asked features of uint8 images [B, 3, S, S]."""
            with torch.inference_mode():
                grey = images[:, :1].float() / 127.5 - 1
                pooled = network.features(grey)
                both = {"pooled": pooled, "logits": network.classify(pooled)}
            return tuple(both[name] for name in self.features_list)

        @staticmethod
        def get_provided_features_list() -> tuple[str, ...]:
            return ("pooled", "logits")

        @staticmethod
        def get_default_feature_layer_for_metric(metric: str) -> str:
            return "logits" if metric == "isc" else "pooled"

        @staticmethod
        def can_be_compiled() -> bool:
            return False

        @staticmethod
        def get_dummy_input_for_compile() -> Tensor:
            return torch.zeros(1, 3, 64, 64, dtype=torch.uint8)

    FEATURE_EXTRACTORS_REGISTRY.pop(PREDICTOR, None)  # a second evaluation has another predictor
    register_feature_extractor(PREDICTOR, PredictorFeatures)
