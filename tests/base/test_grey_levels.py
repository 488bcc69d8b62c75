"""Stored grey levels and [-1, 1]: exact arithmetic, and tensors against arrays."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch

from medxlate.base.grey_levels import (
    from_stored,
    from_stored_tensor,
    peak_of,
    to_levels,
    to_stored,
    to_stored_tensor,
    to_unit,
)

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
DEVICES = ["cpu", pytest.param("cuda", marks=[on_gpu, pytest.mark.gpu])]


def all_levels(bits):
    return np.arange(2**bits, dtype=np.uint8 if bits == 8 else np.uint16)


@pytest.mark.parametrize("bits", [8, 16])
def test_levels_span_minus_one_to_one_and_come_back(bits):
    peak = 2**bits - 1
    assert peak_of(all_levels(bits)) == peak
    np.testing.assert_array_equal(to_stored(from_stored(all_levels(bits)), bits), all_levels(bits))
    np.testing.assert_array_equal(to_levels(to_unit(all_levels(bits)), bits), all_levels(bits))
    ends = to_stored(np.array([[-1, 1, -9, 9]], np.float32), bits)
    assert ends.tolist() == [[0, peak, 0, peak]]
    for level in (0, 1, 77, peak // 2, peak - 1, peak):
        exact = 2 * Fraction(level, peak) - 1
        assert abs(Fraction(float(from_stored(all_levels(bits)[level]))) - exact) < Fraction(
            1, 2**23
        )


def test_halves_are_rounded_to_even():
    unit = np.array([0.5, 1.5, 2.5, 3.5]) / 255
    assert to_levels(unit, 8).tolist() == [0, 2, 2, 4]


@pytest.mark.filterwarnings("error")
def test_what_is_not_finite_raises_and_warns_of_nothing():
    to_stored(np.array([np.nan, np.inf, -np.inf], np.float32), 16)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("bits", [8, 16])
def test_tensors_have_the_bits_of_arrays(bits, device):
    levels = all_levels(bits)
    tensor = torch.from_numpy(levels.view(np.int16) if bits == 16 else levels).to(device)
    truth = levels.astype(np.float32) / np.float32(2**bits - 1) * 2 - 1
    np.testing.assert_array_equal(from_stored_tensor(tensor).cpu().numpy(), truth)
    np.testing.assert_array_equal(from_stored(levels), truth)


@pytest.mark.parametrize("device", DEVICES)
def test_tensors_become_the_levels_of_arrays(device):
    network = np.random.default_rng(0).normal(0, 0.7, 5000).astype(np.float32)
    found = to_stored_tensor(torch.from_numpy(network).to(device))
    np.testing.assert_array_equal(found.cpu().numpy(), to_stored(network, 8))
