"""Which networks images are compared by."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medxlate.base.errors import ModelError, UsageError
from medxlate.evaluation.distribution import (
    Features,
    find_inception,
    inception_features,
    predictor_features,
)
from medxlate.evaluation.subject import Subject
from medxlate.method.predictor import PredictorNetwork


def find_extractors(
    subject: Subject, specs: Sequence[str], inception: Path | None, *, download: bool, offline: bool
) -> tuple[list[Features], dict[str, str]]:
    """Return where features come from, and what is lacking, with the reason.

    Args:
        subject: Whose judge may serve.
        specs: ``inception``, ``predictor`` (the judge), or ``NAME=FILE.safetensors``, a network of
            timm's with its weights; none: those of the first two that are there.
        inception: Inception's weights.
        download: Whether they may be downloaded.
        offline: Whether that is refused all the same.

    Returns:
        Without ``specs``, something is lacking only where nothing was found.

    Raises:
        UsageError: A spec is none of these.
        ModelError: A named file does not hold such weights.
    """
    found: list[Features] = []
    lacking: dict[str, str] = {}
    for spec in dict.fromkeys(specs or ("inception", "predictor")):
        name, _, file = spec.partition("=")
        if spec == "inception":
            weights = find_inception(inception, download=download, offline=offline)
            if weights is None:
                lacking[spec] = "Inception's weights are not here"
            else:
                found.append(inception_features(weights))
        elif spec == "predictor":
            if subject.judge is None:
                lacking[spec] = "there is no judge"
            else:
                has_classes = subject.judge.head.task.kind == "classification"
                found.append(predictor_features(subject.judge.network, has_classes=has_classes))
        elif file:
            if not Path(file).is_file():
                raise ModelError(f"The weights {file} do not exist.")
            network = PredictorNetwork(architecture=name, outputs=1, pretrained=file).eval()
            found.append(predictor_features(network, has_classes=False, name=name))
        else:
            raise UsageError(
                f"--features {spec} is unknown.",
                "Choose inception, predictor, or NAME=FILE.safetensors of a network of timm's.",
            )
    for features in found:
        features.network.to(subject.compute.device)
    return found, lacking if specs or not found else {}
