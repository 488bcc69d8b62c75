"""``medxlate export bundle``: a translator as a MONAI bundle, without a pickle."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from packaging.version import Version

from medxlate._version import __version__
from medxlate.artifacts.card import in_words, model_card, title_of
from medxlate.artifacts.folder import chosen_source, copy_weights
from medxlate.artifacts.info import MARKER, ModelInfo, all_weights, read_model
from medxlate.artifacts.runs import find_model
from medxlate.base.events import Listener, silent
from medxlate.base.files import whole_folder, write_json
from medxlate.export.hub import MAIN, check_license
from medxlate.images.modality import dicom_modality
from medxlate.images.recipes import Recipe

METADATA = "configs/metadata.json"
INFERENCE = "configs/inference.json"
SCHEMA = (
    "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/"
    "meta_schema_20240725.json"
)
MONAI = "1.6.1"  # with which bundles are tested; a test compares it with constraints.txt
PACKAGES = {"nibabel": "5.4.2", "pytorch-ignite": "0.5.5"}  # likewise


@dataclass(frozen=True)
class BundleResult:
    """What was exported.

    Attributes:
        out: The bundle's folder.
        source: The modality that it translates from.
        files: Its files, relative to the folder, in order.
    """

    out: Path
    source: str
    files: list[str]


def export_bundle(
    model: Path | str,
    *,
    out: Path | str,
    license_: str,
    source: str | None = None,
    authors: str = "not stated",
    overwrite: bool = False,
    listener: Listener = silent,
) -> BundleResult:
    """Write a translator as a MONAI bundle.

    ``python -m monai.bundle run`` translates NIfTI files with it as ``translate`` does. The weights
    are ``models/model.safetensors``, which medxlate reads, so it must be installed beside MONAI.

    Args:
        model: A model folder, a run folder, ``runs/latest``, or ``hf://OWNER/NAME@REVISION``.
        out: The folder to write.
        license_: Identifier of the weights' license, such as ``apache-2.0`` or ``other``.
        source: The source modality; needed where the model has several.
        authors: Who is named as author, and in the copyright.
        overwrite: Whether an older bundle in ``out`` is replaced.
        listener: Receives a warning where another run is taken than ``runs/latest``.

    Raises:
        UsageError: The license is not an identifier.
        ModelError: The model cannot translate, or is damaged.
        OutputError: ``out`` exists.
    """
    check_license(license_)
    folder, out = find_model(Path(model), "a translator", listener), Path(out)
    whole = read_model(folder)
    name = chosen_source(folder, whole, source)
    old = whole.model_copy(
        update={"predictor": None, "translators": {name: whole.translators[name]}}
    )
    weights = old.translators[name].weights.model_copy(update={"file": MAIN})
    translator = old.translators[name].model_copy(update={"weights": weights})
    info = old.model_copy(update={"translators": {name: translator}})
    with whole_folder(out, marker=METADATA, overwrite=overwrite) as partial:
        for each in ("configs", "docs", "models"):
            (partial / each).mkdir()
        copy_weights(folder, all_weights(old), partial / "models", [MAIN])
        write_json(partial / "models" / MARKER, info.model_dump(mode="json"))
        write_json(partial / METADATA, _metadata(info, name, authors))
        write_json(partial / INFERENCE, _inference(info.target_recipe))
        _write(partial / "docs" / "README.md", model_card(info, load="models") + _RUNNING)
        _write(partial / "LICENSE", f"SPDX-License-Identifier: {license_}\n")
        files = sorted(
            path.relative_to(partial).as_posix() for path in partial.rglob("*") if path.is_file()
        )
    return BundleResult(out, name, files)


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _metadata(info: ModelInfo, source: str, authors: str) -> dict[str, Any]:
    """Return the content of metadata.json."""
    recipe, side = info.translators[source].recipe, info.image_size
    squares = _tensor(
        dicom_modality(source),
        format_="magnitude",
        shape=[side, side],
        values=(-1.0, 1.0),
        what=f"{source}: {in_words(recipe)}",
    )
    fakes = squares | {"modality": dicom_modality(info.target), "channel_def": {"0": info.target}}
    return {
        "schema": SCHEMA,
        "version": "1.0.0",
        "changelog": {"1.0.0": f"exported by medxlate {__version__}"},
        "monai_version": MONAI,
        "pytorch_version": Version(torch.__version__).public,
        "numpy_version": np.__version__,
        "required_packages_version": {
            "medxlate": __version__,
            **PACKAGES,
            **{each.distribution: each.version for each in info.plugins},
        },
        "task": f"Translation of {source} images to synthetic {info.target} images",
        "description": f"{title_of(info)}: a generator of CycleGAN, trained by medxlate "
        f"({info.method}), which sees a volume slice by slice.",
        "authors": authors,
        "copyright": f"Copyright (c) {authors}",
        "data_type": "nibabel",
        "intended_use": "Research: synthetic images that add to training data. Not for diagnosis.",
        "network_data_format": {
            "inputs": {"image": squares},
            "outputs": {"pred": fakes},
            "post_processed_outputs": {
                "pred": _tensor(
                    dicom_modality(info.target),
                    format_="hounsfield" if info.target_recipe.unit == "HU" else "magnitude",
                    shape=["*", "*", "*"],
                    values=info.target_recipe.output_range,
                    what=f"synthetic {info.target}",
                )
            },
        },
    }


def _tensor(
    modality: str,
    *,
    format_: str,
    shape: list[int] | list[str],
    values: tuple[float, float],
    what: str,
) -> dict[str, Any]:
    return {
        "type": "image",
        "format": format_,
        "modality": modality,
        "num_channels": 1,
        "spatial_shape": shape,
        "dtype": "float32",
        "value_range": list(values),
        "is_patch_data": False,
        "channel_def": {"0": what},
    }


def _inference(target: Recipe) -> dict[str, Any]:
    """Return the content of inference.json."""
    models = {"folder": "$@bundle_root + '/models'", "device": "@device"}
    return {
        "imports": ["$import numpy"],
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/images'",
        "output_dir": "$@bundle_root + '/eval'",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "datalist": {"_target_": "medxlate.inference.bundle.images", "folder": "@dataset_dir"},
        "network_def": {"_target_": "medxlate.inference.bundle.network", **models},
        "network": "$@network_def.to(@device)",
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                {
                    "_target_": "LoadImaged",
                    "keys": "image",
                    "image_only": True,
                    "ensure_channel_first": True,
                }
            ],
        },
        "dataset": {"_target_": "Dataset", "data": "@datalist", "transform": "@preprocessing"},
        "dataloader": {
            "_target_": "DataLoader",
            "dataset": "@dataset",
            "batch_size": 1,
            "shuffle": False,
            "num_workers": 0,
        },
        "inferer": {"_target_": "medxlate.inference.bundle.Inferer", **models},
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                {
                    "_target_": "SaveImaged",
                    "keys": "pred",
                    "writer": "medxlate.inference.bundle.Writer",
                    "output_dir": "@output_dir",
                    "data_root_dir": "@dataset_dir",
                    "output_postfix": "",
                    "output_dtype": "$numpy.int16" if target.unit == "HU" else "$numpy.float32",
                    "separate_folder": False,
                    "resample": False,
                }
            ],
        },
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
        },
        "run": ["$@evaluator.run()"],
    }


_RUNNING = """
## Run it with MONAI

MONAI, pytorch-ignite, nibabel and medxlate must be installed; configs/metadata.json names the
versions. In this folder:

```
python -m monai.bundle run --config_file configs/inference.json \\
    --dataset_dir IMAGES --output_dir OUT
```

IMAGES holds NIfTI files in the source's units.
"""
