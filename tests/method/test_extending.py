"""A method and a generator of one's own are values in a table; nothing else has to know them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from torch import Tensor, nn

import medxlate
import tiny
from medxlate.base.errors import ConfigError, ModelError
from medxlate.method import generator, registry
from medxlate.method.generator import GeneratorShape
from medxlate.method.registry import METHODS, Method


class Curve(nn.Module):
    """A generator that only changes grey values."""

    def __init__(self, shape: GeneratorShape) -> None:
        super().__init__()
        width, blocks = shape.width, shape.blocks
        layers = [nn.Conv2d(1, width, 1), nn.Tanh()]
        layers += [
            layer for _ in range(blocks) for layer in (nn.Conv2d(width, width, 1), nn.Tanh())
        ]
        self.layers = nn.Sequential(*layers, nn.Conv2d(width, 1, 1), nn.Tanh())

    def forward(self, images: Tensor) -> Tensor:
        output: Tensor = self.layers(images)
        return output


def test_a_generator_trains_is_exported_and_translates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(generator.GENERATORS, "curve", Curve)
    config = tiny.debug_config(
        tiny.write_dataset(tmp_path), model={"generator": "curve", "generator_blocks": 1}
    )
    run = medxlate.train(config, runs=tmp_path / "runs", name="curve").run
    described = json.loads((run / "model" / "model.json").read_text())
    assert described["translators"]["mri"]["architecture"] == "curve"
    assert "curve generator" in (run / "model" / "README.md").read_text()
    out = tmp_path / "out"
    result = medxlate.translate(tmp_path / "raw" / "mri", model=run, out=out, device="cpu")
    assert result.slices == 24
    monkeypatch.delitem(generator.GENERATORS, "curve")
    with pytest.raises(ModelError, match="Unknown generator 'curve'"):
        medxlate.translate(tmp_path / "raw" / "mri", model=run, out=tmp_path / "other")


def test_an_unknown_generator_is_an_error_before_anything_is_written(tmp_path: Path):
    config = tiny.debug_config(tiny.write_dataset(tmp_path), model={"generator": "resnte"})
    with pytest.raises(ConfigError, match=r"Unknown generator 'resnte'\..*resnet"):
        medxlate.train(config, runs=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_a_method_is_a_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Of one's own, with the parts of another: raw-mix with the target's scale."""
    own = Method(METHODS["raw-mix"].build, uses_sources=True, scale_from="target", mixes=True)
    monkeypatch.setitem(registry.METHODS, "own-mix", own)
    config = tiny.debug_config(tiny.write_dataset(tmp_path), method="own-mix")
    result = medxlate.train(config, runs=tmp_path / "runs", name="own")
    assert json.loads((result.run / "model" / "model.json").read_text())["method"] == "own-mix"
    assert result.images_seen == 2 * result.steps * config.optimizer.batch_size
