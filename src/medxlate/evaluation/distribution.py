"""How close translated images are to real ones as a set: FID, KID, IS (torch-fidelity).

The figures mean nothing without the features that they were taken from, so every name carries
them: ``fid`` alone is Inception's, ``fid[predictor]`` the trained predictor's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch_fidelity.feature_extractor_inceptionv3 import (
    URL_INCEPTION_V3,
    FeatureExtractorInceptionV3,
)
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric

from medxlate.errors import ModelError
from medxlate.inference.engine import run
from medxlate.models.device import Compute
from medxlate.models.predictor import PredictorNetwork

NAMES = ("fid", "kid", "is")
SMALL = 2048  # below it the covariance of Inception's 2048 features has no full rank


@dataclass(frozen=True)
class Features:
    """Where features come from.

    Attributes:
        name: ``inception`` or ``predictor``.
        network: The network, on the device.
        extract: From uint8 images [B, 3, S, S] to pooled features and, behind them, class logits.
        width: Number of pooled features.
        has_classes: Whether there are class logits, which IS needs.
    """

    name: str
    network: nn.Module
    extract: Callable[[Tensor], Tensor]
    width: int
    has_classes: bool

    def label(self, metric: str) -> str:
        """Return the metric's name with its features: ``fid``, ``fid[predictor]``."""
        return metric if self.name == "inception" else f"{metric}[{self.name}]"


def predictor_features(network: PredictorNetwork, *, has_classes: bool) -> Features:
    """Return the trained predictor as a source of features.

    Args:
        network: The predictor.
        has_classes: Whether its outputs are class logits.
    """

    def extract(eight_bit: Tensor) -> Tensor:
        pooled = network.features(eight_bit[:, :1].float() / 127.5 - 1)
        return torch.cat([pooled, network.classify(pooled)], dim=1)

    return Features("predictor", network, extract, network.feature_width, has_classes)


def inception_features(weights: Path) -> Features:
    """Return torch-fidelity's Inception with weights from a file.

    Raises:
        ModelError: The file does not hold these weights, or holds more than tensors.
    """
    try:
        # torch-fidelity itself would unpickle anything; this refuses all but tensors.
        torch.load(weights, map_location="cpu", weights_only=True)
        layers = ["2048", "logits_unbiased"]
        network = FeatureExtractorInceptionV3(
            "inception-v3-compat", layers, feature_extractor_weights_path=str(weights)
        )
    except Exception as problem:  # pickle, zipfile and torch each raise kinds of their own
        first = str(problem).splitlines()[0] if str(problem) else type(problem).__name__
        raise ModelError(f"{weights} holds no Inception weights: {first}") from None

    def extract(eight_bit: Tensor) -> Tensor:
        return torch.cat(network(eight_bit), dim=1)

    return Features("inception", network, extract, 2048, has_classes=True)


def find_inception(weights: Path | None, *, download: bool) -> Path | None:
    """Return Inception's weights: the given file, torch-fidelity's own copy, or None.

    Args:
        weights: A file that the user named.
        download: Whether torch-fidelity's copy may be downloaded where it is not there yet.

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
    fakes: Iterable[Tensor],
    reals: Iterable[Tensor],
    metrics: Sequence[str],
    features: Features,
    *,
    device: torch.device,
) -> dict[str, float]:
    """Compare translated images with real ones.

    Args:
        fakes: Batches of translated images, float32 [B, 1, S, S] in [-1, 1].
        reals: Batches of real target images, likewise.
        metrics: Of NAMES.
        features: What they are compared by.
        device: Where the network is.

    Returns:
        The metrics under their names with features; IS (of the fakes) is left out where the
        features have no class logits. KID is a mean over 100 random subsets of up to 1000 images.
    """
    a, b = (extract(map(to_eight_bit, images), features, device) for images in (fakes, reals))
    return compare_features(a, b, metrics, features)


def extract(images: Iterable[Tensor], features: Features, device: torch.device) -> Tensor:
    """Return features [N, D] of uint8 images [B, 3, S, S]; in float32, whatever was trained."""
    compute = Compute(device, "fp32")
    return run(features.network, images, compute=compute, call=features.extract)


def compare_features(
    fakes: Tensor, reals: Tensor, metrics: Sequence[str], features: Features
) -> dict[str, float]:
    """Compare the features [N, D] of translated and of real images; see ``image_metrics``."""
    pooled = fakes[:, : features.width], reals[:, : features.width]
    found: dict[str, float] = {}
    if "fid" in metrics:
        statistics = [fid_features_to_statistics(each) for each in pooled]
        value = fid_statistics_to_metric(*statistics, verbose=False)
        found[features.label("fid")] = value["frechet_inception_distance"]
    if "kid" in metrics:
        size = min(1000, len(fakes), len(reals))
        value = kid_features_to_metric(*pooled, kid_subset_size=size, verbose=False)
        found[features.label("kid")] = value["kernel_inception_distance_mean"]
    if "is" in metrics and features.has_classes:
        value = isc_features_to_metric(fakes[:, features.width :], splits=min(10, len(fakes)))
        found[features.label("is")] = value["inception_score_mean"]
    return {name: float(value) for name, value in found.items()}


def to_eight_bit(images: Tensor) -> Tensor:
    """Return [B, 1, S, S] in [-1, 1] as uint8 [B, 3, S, S]; [-1, 1] is the recipe's window."""
    unit = (images.clamp(-1, 1) + 1) / 2
    return (unit * 255).round().to(torch.uint8).expand(-1, 3, -1, -1)
