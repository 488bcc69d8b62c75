"""Which settings concern which methods, held against trainings and against the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from medxlate.artifacts.runs import RunFolder
from medxlate.config import Config, flat, keys, resolve
from medxlate.method.registry import METHODS
from medxlate.method.settings import concerns
from medxlate.study.study import Study
from medxlate.study.summary import design_paragraphs, settings
from medxlate.training.checkpoints import load_part
from medxlate.training.stages import checkpoint_of
from medxlate.training.train import train
from tiny import debug_config, write_dataset

# Another value of each setting that is none of target-only's.
OTHERS: dict[str, dict[str, Any]] = {
    "model": {
        "generator": "another",  # never built
        "generator_width": 12,
        "generator_blocks": 1,
        "upsample": "bilinear",
        "skip": "unet",
        "discriminator_width": 12,
        "discriminator_layers": 1,
        "discriminator_norm": "none",
        "batch_norm": "separate",
    },
    "objective": {
        "lambda_cycle": 0.0,
        "lambda_predict": 0.5,
        "predict_unit": "label",
        "fake_weight": "count",
        "lambda_identity": 2.0,
        "lambda_structure": 3.0,
        "losses": {"another": 1.0},  # never looked for
        "one_sided": True,
        "diffaugment": ("cutout",),
        "noise": "target",
        "rescale": 0.1,
        "ema_fakes": True,
    },
    "optimizer": {
        "translator_lr": 1e-3,
        "translator_betas": (0.1, 0.9),
        "translator_share": 0.6,
        "autoencode": 0.4,
        "buffer_size": 3,
        "ema_decay": 0.9,
    },
    "augment": {
        "flip": 0.1,
        "crop": 0.5,
        "rotate": 40.0,
        "shift": 0.3,
        "jitter": 0.5,
        "erase": 0.9,
        "erase_area": (0.1, 0.2),
        "erase_ratio": (1.0, 2.0),
    },
    "baselines": {
        "first_epochs": 1,
        "multitask_weight": 3.0,
        "dann_weight": 3.0,
        "dann_gamma": 3.0,
        "dann_width": 16,
    },
}


def weights(config: Config, runs: Path, name: str) -> dict[str, torch.Tensor]:
    run = RunFolder(train(config, runs=runs, name=name).run)
    return load_part(checkpoint_of(run, "last"), "predictor.")


def test_what_does_not_concern_target_only_leaves_its_training_as_it_is(tmp_path: Path) -> None:
    data = write_dataset(tmp_path)
    optimizer = {"epochs": 2, "steps_per_epoch": 3, "warmup": 0.5}
    plain = debug_config(data, method="target-only", optimizer=optimizer)
    changes = {**OTHERS, "optimizer": {**optimizer, **OTHERS["optimizer"]}}
    changed = debug_config(data, method="target-only", **changes)
    differing = {key for key, value in flat(changed).items() if value != flat(plain)[key]}
    assert differing == {
        key
        for key in keys()
        if not concerns(key, "target-only") and not key.startswith(("data.", "runtime."))
    }
    one, other = (weights(c, tmp_path, n) for c, n in ((plain, "plain"), (changed, "changed")))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize(
    ("key", "methods"),
    [
        ("optimizer.predictor_lr", {*METHODS}),
        ("optimizer.keep", {*METHODS}),
        ("model.predictor", {*METHODS}),
        ("model.skip", {"joint", "cyclegan"}),
        ("objective.noise", {"joint", "cyclegan"}),
        ("objective.ema_fakes", {"joint"}),
        (
            "model.batch_norm",
            {"joint", "cyclegan", "raw-mix", "histogram", "duplicate-real", "oracle"},
        ),
        ("baselines.first_epochs", {"cyclegan", "transfer"}),
        ("baselines.dann_gamma", {"dann"}),
        ("augment.crop", {"simple-augment"}),
        ("augment.erase_area", {"random-erasing"}),
        ("data.oracle", {"oracle"}),
        (
            "data.match_labels",
            {"joint", "cyclegan", "raw-mix", "histogram", "oracle", "multitask", "dann"},
        ),
    ],
)
def test_a_setting_concerns_some_methods(key: str, methods: set[str]) -> None:
    assert {name for name in METHODS if concerns(key, name)} == methods
    added = concerns(key, "joint+random-erasing")
    assert added == ("joint" in methods or key == "augment.erase_area")


def study_of(*methods: str, batch_norm: str = "joint") -> Study:
    overrides = {"data": {"target": "ct", "sources": ["mri"]}, "model": {"batch_norm": batch_norm}}
    return Study(
        medxlate="0",
        methods=methods,
        source_sets=(("mri",),),
        repeats=1,
        target_fractions=(1.0,),
        source_fractions=(1.0,),
        config=resolve(overrides=overrides),
        fingerprints={},
    )


def test_a_study_names_each_setting_beside_the_methods_that_it_concerns() -> None:
    groups = settings(study_of("constant", "target-only", "raw-mix", "joint", "cyclegan"))
    assert set(groups) == {
        "all methods", "raw-mix, joint, cyclegan", "joint, cyclegan", "joint", "cyclegan",
    }  # fmt: skip
    assert {"optimizer.keep", "model.predictor", "runtime.seed"} <= set(groups["all methods"])
    assert groups["raw-mix, joint, cyclegan"] == [
        "data.match_labels", "model.batch_norm", "objective.fake_weight",
    ]  # fmt: skip
    assert {"model.upsample", "optimizer.translator_share"} <= set(groups["joint, cyclegan"])
    assert groups["cyclegan"] == ["baselines.first_epochs"]
    shown = [key for group in groups.values() for key in group]
    assert len(shown) == len(set(shown))
    assert not [key for key in shown if key.startswith(("data.folder", "augment.", "runtime.d"))]


def test_what_is_said_of_batch_norm_is_of_the_configured_one() -> None:
    joint, separate = (
        " ".join(design_paragraphs(study_of("joint", batch_norm=kind), pd.DataFrame()))
        for kind in ("joint", "separate")
    )
    assert "than target images compute" in joint
    assert "than target images compute" not in separate
    assert "in `multitask` and `dann`" in " ".join(separate.split())
