"""Weights come from the model folder by a map: none are drawn first, and the map goes again."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

import tiny
from medxlate.artifacts.folder import load_generator, load_network, load_predictor, write_weights
from medxlate.artifacts.info import Weights, read_model
from medxlate.base.errors import ConfigError, ModelError
from medxlate.base.tensors import load_tensors
from medxlate.method.predictor import PredictorNetwork

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/maps")


def loaded(folder: Path) -> dict[str, nn.Module]:
    info = read_model(folder)
    return {
        "translator-mri.safetensors": load_generator(folder, info, None)[1],
        "predictor.safetensors": load_predictor(folder, info),
    }


def mapped(path: Path) -> list[tuple[int, int]]:
    """Where in memory a file is mapped: first address and the one after the last."""
    ranges = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        if line.endswith(f" {path}"):
            first, last = line.split()[0].split("-")
            ranges.append((int(first, 16), int(last, 16)))
    return ranges


@linux
def test_weights_get_aligned_memory_of_their_own(tmp_path: Path):
    """Kernels round by alignment, and a map that stayed would bind the network to the file."""
    folder = tiny.write_tiny_model(tmp_path)
    networks = loaded(folder)
    for name, network in networks.items():
        assert not mapped((folder / name).resolve())
        assert not any(p.data_ptr() % 64 for p in network.parameters())


@linux
def test_a_file_is_mapped_and_not_read_into_memory(tmp_path: Path):
    save_file({"a": torch.ones(64, 64), "b": torch.ones(3)}, tmp_path / "w.safetensors")
    tensors = load_tensors(tmp_path / "w.safetensors")
    ranges = mapped((tmp_path / "w.safetensors").resolve())
    for tensor in tensors.values():
        assert any(first <= tensor.data_ptr() < last for first, last in ranges)


def test_no_initial_weights_are_drawn(tmp_path: Path):
    folder = tiny.write_tiny_model(tmp_path)
    before = torch.get_rng_state()
    loaded(folder)
    assert torch.equal(torch.get_rng_state(), before)


def test_training_further_changes_the_network_and_not_the_file(tmp_path: Path):
    folder = tiny.write_tiny_model(tmp_path)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for network in loaded(folder).values():
        optimizer = torch.optim.SGD(network.train().parameters(), 0.1)
        network(torch.rand(2, 1, tiny.SIZE, tiny.SIZE)).square().mean().backward()
        optimizer.step()
        assert all(parameter.requires_grad for parameter in network.parameters())
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    again = loaded(folder)["predictor.safetensors"]
    pairs = zip(network.parameters(), again.parameters(), strict=True)
    assert not all(torch.equal(ours, stored) for ours, stored in pairs)


class Stem(nn.Module):
    """Holds a buffer that it computes when it is built and does not save."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(3))
        self.register_buffer("ramp", torch.arange(3.0), persistent=False)


class Counting(nn.Linear):
    """Looks at its weights when it is built."""

    def __init__(self) -> None:
        super().__init__(2, 2)
        self.largest = float(self.weight.detach().max())


@pytest.mark.parametrize("make", [Stem, Counting])
def test_networks_that_cannot_be_built_hollow_are_built_whole(
    tmp_path: Path, make: type[nn.Module]
):
    wanted = make()
    weights = write_weights(tmp_path, "w.safetensors", wanted.state_dict(), step=0)
    found = load_network(make, tmp_path, weights)
    assert not any(tensor.is_meta for tensor in [*found.parameters(), *found.buffers()])
    assert not found.training
    for name, tensor in wanted.state_dict().items():
        assert torch.equal(found.state_dict()[name], tensor)
    if isinstance(found, Stem):
        assert torch.equal(found.get_buffer("ramp"), torch.arange(3.0))


@pytest.mark.parametrize("architecture", timm.list_models("test_*"))
def test_every_kind_of_predictor_is_the_saved_one(tmp_path: Path, architecture: str):
    side = timm.get_pretrained_cfg(architecture).input_size[-1]
    try:
        wanted = PredictorNetwork(architecture=architecture, outputs=2).eval()
    except TypeError:
        pytest.skip("takes colour images alone")
    weights = write_weights(tmp_path, "w.safetensors", wanted.state_dict(), step=0)
    found = load_network(
        lambda: PredictorNetwork(architecture=architecture, outputs=2), tmp_path, weights
    )
    image = torch.rand(2, 1, side, side, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(found(image), wanted(image))


def test_an_unknown_predictor_is_named_when_loaded(tmp_path: Path):
    weights = write_weights(tmp_path, "w.safetensors", {"a": torch.zeros(1)}, step=0)
    with pytest.raises(ConfigError, match="resnet5O"):
        load_network(lambda: PredictorNetwork(architecture="resnet5O"), tmp_path, weights)


def test_half_precision_on_disk_is_float32_in_the_network(tmp_path: Path):
    state = {name: value.half() for name, value in nn.Linear(2, 2).state_dict().items()}
    weights = write_weights(tmp_path, "w.safetensors", state, step=0)
    found = load_network(lambda: nn.Linear(2, 2), tmp_path, weights)
    assert found.weight.dtype == torch.float32
    assert torch.equal(found.weight, state["weight"].float())


def test_changed_weights_are_refused_before_they_are_used(tmp_path: Path):
    save_file({"weight": torch.zeros(2, 2), "bias": torch.zeros(2)}, tmp_path / "w.safetensors")
    weights = Weights(file="w.safetensors", sha256="0" * 64, step=0)
    with pytest.raises(ModelError, match="SHA-256"):
        load_network(lambda: nn.Linear(2, 2), tmp_path, weights)
