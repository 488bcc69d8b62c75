"""How close translated images are to real ones as a set: FID, KID, IS (torch-fidelity).

The figures mean nothing without the features that they were taken from, so every name carries
them: ``fid`` alone is Inception's, ``fid[predictor]`` that of a predictor of real target images
alone (the judge; in a study that of `target-only`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch_fidelity
from torch import Tensor, nn
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.metric_kid import kernel_mmd

from medxlate import pretrained
from medxlate.base.device import Compute, Precision
from medxlate.base.errors import ModelError
from medxlate.base.events import Listener, silent
from medxlate.base.grey_levels import from_stored_tensor, to_stored
from medxlate.evaluation.gaussian import Gaussian, Moments, frechet_distance
from medxlate.evaluation.store import FeatureStore, StoredFeatures, network_key
from medxlate.inference.engine import run
from medxlate.method.predictor import PredictorNetwork

NAMES = ("fid", "kid", "is")
SMALL = 2048  # below it the covariance of Inception's 2048 features has no full rank
PREPARATION = "1"  # of images for a network; another way of it makes other features
PRECISION: Precision = "fp32"  # in which features are computed
KID_SUBSETS, KID_SIZE, SEED = 100, 1000, 2020  # torch-fidelity's
BLOCK = 512  # images whose features are in memory at once


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


def predictor_features(
    network: PredictorNetwork, *, has_classes: bool, name: str = "predictor"
) -> Features:
    """Return a trained predictor, or another network of timm's, as a source of features.

    Args:
        network: The network.
        has_classes: Whether its outputs are class logits.
        name: What the features are called.
    """

    def extract(eight_bit: Tensor) -> Tensor:
        pooled = network.features(from_stored_tensor(eight_bit[:, :1]))
        return torch.cat([pooled, network.classify(pooled)], dim=1)

    return Features(name, network, extract, network.feature_width, has_classes)


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

    network.to(memory_format=torch.channels_last)  # a fifth faster on a processor

    def extract(eight_bit: Tensor) -> Tensor:
        return torch.cat(network(eight_bit), dim=1)

    return Features("inception", network, extract, 2048, has_classes=True)


def find_inception(weights: Path | None, *, download: bool, offline: bool = False) -> Path | None:
    """Return Inception's weights: the given file, torch-fidelity's own copy, or None.

    Args:
        weights: A file that the user named.
        download: Whether torch-fidelity's copy may be downloaded where it is not there yet.
        offline: Whether a download is refused all the same.

    Raises:
        ModelError: The named file does not exist, or the download failed or was refused.
    """
    if weights is not None:
        if not weights.is_file():
            raise ModelError(f"The Inception weights {weights} do not exist.")
        return weights
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    cached = folder / pretrained.REGISTRY["inception"].file
    if cached.is_file():
        return cached
    if download and offline:
        raise ModelError(
            f"Inception's weights are not at {cached}, and nothing is downloaded offline.",
            "Run `medxlate fetch inception --out FOLDER` elsewhere, carry the folder here, and "
            "name its file with --inception.",
        )
    return pretrained.fetch("inception", out=folder).path if download else None


def open_store(
    folder: Path | None,
    features: Features,
    device: torch.device,
    *,
    listener: Listener = silent,
) -> FeatureStore:
    """Return where the features of images are kept under all that they depend on.

    Args:
        folder: See ``FeatureStore``.
        features: Where they come from.
        device: Where the network is: another kind of device rounds differently.
        listener: See ``FeatureStore``.
    """
    facts = {
        "name": features.name,
        "network": network_key(features.network),
        "preparation": PREPARATION,
        "precision": PRECISION,
        "device": device.type,
        "libraries": f"torch {torch.__version__}, torch-fidelity {torch_fidelity.__version__}",
    }
    return FeatureStore(folder, facts, listener=listener)


def extract(
    images: Iterable[Tensor], features: Features, device: torch.device, store: FeatureStore
) -> StoredFeatures:
    """Return the features [N, D] of uint8 images [B, 3, S, S]; in float32, whatever was trained.

    The network sees only images that are not in the store.
    """
    compute = Compute(device, PRECISION)

    def call(batch: Tensor) -> Tensor:
        return run(features.network, [batch], compute=compute, call=features.extract)

    return store.features(images, call)


def compare_features(
    fakes: StoredFeatures, reals: StoredFeatures, metrics: Sequence[str], features: Features
) -> dict[str, float]:
    """Compare the features of translated and of real images.

    Args:
        fakes: Features of translated images.
        reals: Features of real target images.
        metrics: Of NAMES.
        features: Where they come from.

    Returns:
        The metrics under their names with features; IS (of the fakes) is left out where the
        features have no class logits. KID is a mean over 100 random subsets of up to 1000 images.
    """
    width = features.width
    found: dict[str, float] = {}
    if "fid" in metrics:
        value = frechet_distance(_gaussian(fakes, width), _gaussian(reals, width))
        found[features.label("fid")] = value
    if "kid" in metrics:
        found[features.label("kid")] = kernel_distance(fakes, reals, width)
    if "is" in metrics and features.has_classes:
        found[features.label("is")] = inception_score(fakes, width)
    return found


def kernel_distance(fakes: StoredFeatures, reals: StoredFeatures, width: int) -> float:
    """Return KID over the subsets that torch-fidelity draws; one of each is in memory at a time."""
    size = min(KID_SIZE, len(fakes), len(reals))
    random = np.random.RandomState(SEED)
    values = []
    for _ in range(KID_SUBSETS):
        pair = [
            each.rows(random.choice(len(each), size, replace=False))[:, :width]
            for each in (fakes, reals)
        ]
        values.append(kernel_mmd(*pair))
    return float(np.mean(values))


def inception_score(fakes: StoredFeatures, width: int) -> float:
    """Return IS over the splits that torch-fidelity draws, from sums over blocks of images.

    The mean of KL(p || q) over a split, q being its mean p, is that of sum(p log p) less
    sum(q log q).
    """
    count = len(fakes)
    splits = min(10, count)
    order = np.random.RandomState(SEED).permutation(count)
    scores = []
    for i in range(splits):
        chosen = order[i * count // splits : (i + 1) * count // splits]
        sharpness, total = 0.0, torch.zeros(1, dtype=torch.float64)
        for start in range(0, len(chosen), BLOCK):
            rows = fakes.rows(chosen[start : start + BLOCK])[:, width:]
            logits = torch.from_numpy(rows).double()
            shares = logits.softmax(dim=1)
            sharpness += float((shares * logits.log_softmax(dim=1)).sum())
            total = total + shares.sum(dim=0)
        mean = total / len(chosen)
        scores.append(math.exp(sharpness / len(chosen) - float(torch.xlogy(mean, mean).sum())))
    return float(np.mean(scores))


def _gaussian(stored: StoredFeatures, width: int) -> Gaussian:
    moments = Moments(width)
    for start in range(0, len(stored), BLOCK):
        moments.add(stored.rows(range(start, min(start + BLOCK, len(stored))))[:, :width])
    return moments.gaussian()


def to_eight_bit(images: Tensor) -> Tensor:
    """Return [B, 1, S, S] in [-1, 1] as uint8 [B, 3, S, S]; [-1, 1] is the recipe's window."""
    # numpy, on one thread: the threads of torch lose more than they gain on so small a batch, and
    # wait for each other for seconds where other processes are busy.
    stored = to_stored(images.cpu().numpy(), 8)
    return torch.from_numpy(stored).expand(-1, 3, -1, -1)
