"""What a first stage leaves: translations as integers, and back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from conftest import noise
from datasets_on_disk import AGE, write_dataset
from medxlate.base.device import Compute
from medxlate.base.errors import ModelError
from medxlate.dataset.loading import Slices
from medxlate.training.stages import read_translated, write_translated

CPU = Compute(torch.device("cpu"), "fp32")


class Negative(nn.Module):
    """Turns black to white; one image gets a value of one's own."""

    def __init__(self, value: float | None = None) -> None:
        super().__init__()
        self._value = value

    def forward(self, images: Tensor) -> Tensor:
        made = -images
        if self._value is not None:
            made[-1, 0, 3, 3] = self._value
        return made


def slices(folder: Path) -> Slices:
    images = noise(5, 32, 32, dtype=np.uint16)
    modality = write_dataset(folder, images, np.arange(5) + 60.5, shard_bytes=images.nbytes)
    return Slices(modality, range(5), task=AGE, image_size=32)


def test_translations_come_back_within_half_a_level(tmp_path: Path):
    some, path = slices(tmp_path), tmp_path / "translated.npy"
    write_translated(path, some, Negative(), CPU, 32)
    read = read_translated(path)
    for index in range(5):
        found = read(index)
        assert found.dtype == np.float32
        wanted = -some.batch([index]).images[0, 0].numpy()
        assert np.abs(found - wanted).max() <= 1.01 / 65535


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_translations_that_are_not_finite_are_an_error_and_leave_nothing(
    tmp_path: Path, value: float
):
    path = tmp_path / "translated.npy"
    with pytest.raises(ModelError, match="translator of mri outputs values that are not finite"):
        write_translated(path, slices(tmp_path), Negative(value), CPU, 32)
    assert not path.exists()
    assert list(tmp_path.glob("*.partial*")) == []
