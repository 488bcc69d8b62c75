"""Moving averages of the generators: closed form, resumed bit by bit, shown and exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tiny
from medxlate.artifacts.runs import RunFolder
from medxlate.base.errors import ModelError
from medxlate.base.tensors import same_bits
from medxlate.inference.translate import Translator
from medxlate.method.averages import Averages
from medxlate.method.translator import TranslatorNetworks
from medxlate.training.checkpoints import load_part, load_translation, newest_sound
from medxlate.training.stages import checkpoint_of
from medxlate.training.train import train
from medxlate.training.verify import verify_resume

DECAY = 0.75


def networks() -> TranslatorNetworks:
    torch.manual_seed(1)
    return TranslatorNetworks(width=4, blocks=1, discriminator_width=4)


def flat(network: torch.nn.Module) -> np.ndarray[Any, Any]:
    return np.concatenate([p.detach().double().numpy().ravel() for p in network.parameters()])


def change(network: torch.nn.Module, step: int) -> None:
    random = torch.Generator().manual_seed(step)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += torch.randn(parameter.shape, generator=random)


def test_the_average_is_that_of_the_closed_form():
    """After n steps: decay^n w_0 + (1 - decay) sum of decay^(n - i) w_i."""
    both = networks()
    averages = Averages({"mri": both, "predictor": torch.nn.Linear(2, 2)}, decay=DECAY)
    seen = [(flat(both.g), flat(both.f))]
    for step in range(1, 8):
        change(both, step)
        averages.update()
        seen.append((flat(both.g), flat(both.f)))
    state, last = averages.state(), len(seen) - 1
    assert not any("predictor" in name or ".d_" in name for name in state)
    for side, name in ((0, "g"), (1, "f")):
        wanted = DECAY**last * seen[0][side]
        for i in range(1, last + 1):
            wanted = wanted + (1 - DECAY) * DECAY ** (last - i) * seen[i][side]
        own = [v.double().numpy().ravel() for k, v in state.items() if k.startswith(f"mri.{name}.")]
        np.testing.assert_allclose(np.concatenate(own), wanted, atol=2e-6)
        assert np.abs(wanted - seen[-1][side]).max() > 0.1


def test_they_are_shown_for_a_while_and_the_weights_come_back():
    both = networks()
    averages = Averages({"mri": both}, decay=DECAY)
    change(both, 1)
    averages.update()
    before = {k: v.clone() for k, v in both.state_dict().items()}
    places = [p.data_ptr() for p in both.parameters()]
    with averages.shown():
        state = averages.state()
        for name, shown in both.g.named_parameters():
            assert same_bits(shown, state[f"mri.g.{name}"])
        assert not same_bits(both.g.layers[1].weight, before["g.layers.1.weight"])
    assert all(same_bits(v, before[k]) for k, v in both.state_dict().items())
    assert [p.data_ptr() for p in both.parameters()] == places  # where a captured step reads them


def test_without_a_decay_there_are_none_and_others_are_refused():
    none = Averages({"mri": networks()}, decay=0)
    none.update()
    with none.shown():
        pass
    assert none.state() == {}
    some = Averages({"mri": networks()}, decay=DECAY)
    for one, other in ((none, some.state()), (some, {})):
        with pytest.raises(ModelError, match="ema_decay"):
            one.load_state(other)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    root = tmp_path_factory.mktemp("averages")
    data = tiny.write_dataset(root)
    config = tiny.debug_config(data, optimizer={"ema_decay": DECAY, "epochs": 1})
    return RunFolder(train(config, runs=root / "runs").run)


def test_the_exported_translator_is_the_average(run: RunFolder):
    last = checkpoint_of(run, "last")
    average, weights = load_translation(last, "mri", "g"), load_part(last, "mri.g.")
    assert average.keys() == weights.keys()
    assert not same_bits(average["layers.1.weight"], weights["layers.1.weight"])
    exported = Translator.load(run.path)
    for name, weight in exported.network.state_dict().items():
        assert torch.equal(weight.contiguous(), average[name])
    notes = exported.info.trained_on
    assert notes is not None
    assert any("moving averages" in note for note in notes.notes)


def test_without_averages_the_weights_are_exported(tmp_path: Path):
    data = tiny.write_dataset(tmp_path)
    run = RunFolder(train(tiny.debug_config(data, optimizer={"epochs": 1}), runs=tmp_path).run)
    last = checkpoint_of(run, "last")
    found, weights = load_translation(last, "mri", "f"), load_part(last, "mri.f.")
    assert all(same_bits(found[name], weights[name]) for name in weights)
    snapshot = newest_sound(run.checkpoints)
    assert snapshot is not None
    assert snapshot.averages == {}


def test_a_stopped_training_goes_on_to_the_same_averages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    config = tiny.debug_config(tiny.write_dataset(tmp_path), optimizer={"ema_decay": DECAY})
    assert verify_resume(config).differences == ()
    monkeypatch.setattr(Averages, "load_state", lambda *_: None)
    names = {difference.name for difference in verify_resume(config).differences}
    assert names
    assert all(name.startswith("average.mri.") for name in names)
