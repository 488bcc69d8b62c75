"""Where networks compute: biases that an instance norm takes away again are left out on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from torch import nn

from medxlate.base.device import Compute
from medxlate.method.discriminator import Discriminator
from medxlate.method.generator import Generator
from medxlate.method.placing import place, skip_vain_biases

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "published": lambda: Generator(width=4, blocks=1),
    "interpolating": lambda: Generator(width=4, blocks=1, upsample="bilinear", skip="both"),
    "discriminator": lambda: Discriminator(width=4, layers=2),
}


def with_biases(network: nn.Module) -> nn.Module:
    """Return the network in float64, its biases drawn too."""
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter, std=0.5)
    return network.double()


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_bias_before_an_instance_norm_has_no_effect(kind: str):
    torch.manual_seed(0)
    ours = with_biases(NETWORKS[kind]())
    theirs = deepcopy(ours)
    skip_vain_biases(ours)
    images = 2 * torch.rand(2, 1, 32, 32, dtype=torch.float64) - 1
    outputs = []
    for network in (ours, theirs):
        outputs.append(network(images))
        outputs[-1].square().mean().backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(*outputs, rtol=1e-9, atol=1e-12)
    skipped = []
    for (name, mine), wanted in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert wanted.grad is not None
        if mine.grad is None:
            skipped.append(name)
            assert wanted.grad.abs().max() < 1e-12
        else:
            torch.testing.assert_close(mine.grad, wanted.grad, rtol=1e-7, atol=1e-12)
    norms = sum(isinstance(layer, nn.InstanceNorm2d) for layer in ours.modules())
    assert len(skipped) == norms


def test_biases_that_count_stay():
    network = Discriminator(width=4, norm="none")
    kinds = [type(layer) for layer in network.modules()]
    skip_vain_biases(network)
    assert [type(layer) for layer in network.modules()] == kinds


def test_weights_of_all_devices_have_the_same_names():
    """By a device that only knows shapes."""
    network = Generator(width=4, blocks=1)
    names = list(network.state_dict())
    placed = place(network, Compute(torch.device("meta"), "fp32"))
    assert list(placed.state_dict()) == names
    assert any("BiasFree" in type(layer).__name__ for layer in placed.modules())
