"""medxlate: cross-modality data augmentation for medical imaging.

The functions below are the commands of the same names (``import_cyclegan`` is that of
``import cyclegan``); they are loaded on first use, so that ``import medxlate`` costs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from medxlate._version import __version__

if TYPE_CHECKING:
    from medxlate.artifacts.importing import import_cyclegan
    from medxlate.config import Config, resolve
    from medxlate.dataset.options import PrepareOptions
    from medxlate.dataset.prepare import prepare
    from medxlate.evaluation.evaluate import evaluate
    from medxlate.export.bundle import export_bundle
    from medxlate.export.datalist import export_monai
    from medxlate.export.hub import export_hub, push_hub
    from medxlate.export.nnunet import export_nnunet
    from medxlate.export.onnx import export_onnx
    from medxlate.inference.predict import Prediction, Predictor, predict
    from medxlate.inference.transform import Translated
    from medxlate.inference.translate import Translator, translate
    from medxlate.report.run_report import write_report
    from medxlate.study.compare import compare
    from medxlate.study.plan import plan
    from medxlate.training.train import resume, train
    from medxlate.walkthrough import demo

_HOMES = {
    "Config": "medxlate.config",
    "PrepareOptions": "medxlate.dataset.options",
    "Prediction": "medxlate.inference.predict",
    "Predictor": "medxlate.inference.predict",
    "Translated": "medxlate.inference.transform",
    "Translator": "medxlate.inference.translate",
    "compare": "medxlate.study.compare",
    "demo": "medxlate.walkthrough",
    "evaluate": "medxlate.evaluation.evaluate",
    "export_bundle": "medxlate.export.bundle",
    "export_hub": "medxlate.export.hub",
    "export_monai": "medxlate.export.datalist",
    "export_nnunet": "medxlate.export.nnunet",
    "export_onnx": "medxlate.export.onnx",
    "import_cyclegan": "medxlate.artifacts.importing",
    "plan": "medxlate.study.plan",
    "predict": "medxlate.inference.predict",
    "prepare": "medxlate.dataset.prepare",
    "push_hub": "medxlate.export.hub",
    "resolve": "medxlate.config",
    "resume": "medxlate.training.train",
    "train": "medxlate.training.train",
    "translate": "medxlate.inference.translate",
    "write_report": "medxlate.report.run_report",
}

__all__ = [
    "Config",
    "Prediction",
    "Predictor",
    "PrepareOptions",
    "Translated",
    "Translator",
    "__version__",
    "compare",
    "demo",
    "evaluate",
    "export_bundle",
    "export_hub",
    "export_monai",
    "export_nnunet",
    "export_onnx",
    "import_cyclegan",
    "plan",
    "predict",
    "prepare",
    "push_hub",
    "resolve",
    "resume",
    "train",
    "translate",
    "write_report",
]


def __dir__() -> list[str]:
    """Return the public names, also of what is not loaded yet."""
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    """Load a public name from its home on first use (PEP 562)."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'medxlate' has no attribute '{name}'")
