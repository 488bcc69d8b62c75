"""Networks whose features images are compared by, and how features are taken.

The figures mean nothing without the features that they were taken from, so every name carries
them: ``fid`` alone is Inception's, ``fid[predictor]`` that of a predictor of real target images
alone (the judge; in a study that of `target-only`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch_fidelity
from torch import Tensor, nn
from torch_fidelity import FeatureExtractorInceptionV3

from medxlate import pretrained
from medxlate.base.device import Compute, Precision
from medxlate.base.errors import ModelError, UsageError
from medxlate.base.events import Listener, silent
from medxlate.base.grey_levels import from_stored_tensor, to_stored
from medxlate.evaluation.feature_store import FeatureStore, StoredFeatures, network_key
from medxlate.evaluation.subject import Subject
from medxlate.inference.engine import run
from medxlate.method.predictor import PredictorNetwork

PREPARATION = "1"  # of images for a network; to prepare them otherwise makes other features
PRECISION: Precision = "fp32"  # in which features are computed


@dataclass(frozen=True)
class Extractor:
    """A network that images are compared by.

    Attributes:
        name: ``inception``, ``predictor``, or the name of a network of timm's.
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


def find_extractors(
    subject: Subject, specs: Sequence[str], inception: Path | None, *, download: bool, offline: bool
) -> tuple[list[Extractor], dict[str, str]]:
    """Return the networks to compare images by, and those that are missing, with the reason.

    Args:
        subject: Its judge may serve.
        specs: ``inception``, ``predictor`` (the judge), or ``NAME=FILE.safetensors``, a network of
            timm's with its weights. None: those of the first two that are there.
        inception: Inception's weights.
        download: Whether they may be downloaded.
        offline: Whether a download is refused even so.

    Returns:
        The extractors, and the reasons by spec. Without ``specs``, a reason is given only where
        there is no extractor.

    Raises:
        UsageError: A spec is of another form.
        ModelError: A named file does not hold such weights.
    """
    found: list[Extractor] = []
    missing: dict[str, str] = {}
    for spec in dict.fromkeys(specs or ("inception", "predictor")):
        name, _, file = spec.partition("=")
        if spec == "inception":
            weights = find_inception(inception, download=download, offline=offline)
            if weights is None:
                missing[spec] = "the Inception weights are not on this machine"
            else:
                found.append(inception_extractor(weights))
        elif spec == "predictor":
            if subject.judge is None:
                missing[spec] = "there is no judge"
            else:
                has_classes = subject.judge.head.task.kind == "classification"
                network = subject.judge.network
                found.append(predictor_extractor(network, has_classes=has_classes))
        elif file:
            if not Path(file).is_file():
                raise ModelError(f"The weights {file} do not exist.")
            network = PredictorNetwork(architecture=name, outputs=1, pretrained=file).eval()
            found.append(predictor_extractor(network, has_classes=False, name=name))
        else:
            raise UsageError(
                f"Unknown value for --features: {spec}.",
                "Use inception, predictor, or NAME=FILE.safetensors for a timm network.",
            )
    for extractor in found:
        extractor.network.to(subject.compute.device)
    return found, missing if specs or not found else {}


def predictor_extractor(
    network: PredictorNetwork, *, has_classes: bool, name: str = "predictor"
) -> Extractor:
    """Return a trained predictor, or another network of timm's, as a source of features.

    Args:
        network: The network.
        has_classes: Whether its outputs are class logits.
        name: What the features are called.
    """

    def extract(eight_bit: Tensor) -> Tensor:
        pooled = network.features(from_stored_tensor(eight_bit[:, :1]))
        return torch.cat([pooled, network.classify(pooled)], dim=1)

    return Extractor(name, network, extract, network.feature_width, has_classes)


def inception_extractor(weights: Path) -> Extractor:
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
        raise ModelError(f"{weights} contains no Inception weights: {first}") from None

    network.to(memory_format=torch.channels_last)  # a fifth faster on a processor

    def extract(eight_bit: Tensor) -> Tensor:
        return torch.cat(network(eight_bit), dim=1)

    return Extractor("inception", network, extract, 2048, has_classes=True)


def find_inception(weights: Path | None, *, download: bool, offline: bool = False) -> Path | None:
    """Return Inception's weights: the given file, torch-fidelity's own copy, or None.

    Args:
        weights: A file that the user named.
        download: Whether torch-fidelity's copy may be downloaded where it is not here yet.
        offline: Whether a download is refused even so.

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
            f"The Inception weights are not at {cached}, and nothing is downloaded in offline "
            "mode.",
            "Run `medxlate fetch inception --out FOLDER` on a machine with internet access, copy "
            "the folder here and give its file with --inception.",
        )
    return pretrained.fetch("inception", out=folder).path if download else None


def open_store(
    folder: Path | None,
    extractor: Extractor,
    device: torch.device,
    *,
    listener: Listener = silent,
) -> FeatureStore:
    """Return the store of features under all that they depend on.

    Args:
        folder: See ``FeatureStore``.
        extractor: The network that computes them.
        device: Where the network is: another kind of device rounds differently.
        listener: See ``FeatureStore``.
    """
    facts = {
        "name": extractor.name,
        "network": network_key(extractor.network),
        "preparation": PREPARATION,
        "precision": PRECISION,
        "device": device.type,
        "libraries": f"torch {torch.__version__}, torch-fidelity {torch_fidelity.__version__}",
    }
    return FeatureStore(folder, facts, listener=listener)


def extract(
    images: Iterable[Tensor], extractor: Extractor, device: torch.device, store: FeatureStore
) -> StoredFeatures:
    """Return the features [N, D + K] of uint8 images [B, 3, S, S]; in float32, always.

    The network sees only images that are not in the store.
    """
    compute = Compute(device, PRECISION)

    def call(batch: Tensor) -> Tensor:
        return run(extractor.network, [batch], compute=compute, call=extractor.extract)

    return store.features(images, call)


def to_eight_bit(images: Tensor) -> Tensor:
    """Return [B, 1, S, S] in [-1, 1] as uint8 [B, 3, S, S]; [-1, 1] is the recipe's window."""
    # numpy, on one thread: the threads of torch lose more than they gain on so small a batch, and
    # wait for each other for seconds where other processes are busy.
    stored = to_stored(images.cpu().numpy(), 8)
    return torch.from_numpy(stored).expand(-1, 3, -1, -1)
