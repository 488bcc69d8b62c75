from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import Array, noise
from datasets_on_disk import AGE, resident_memory, write_dataset
from medxlate.dataset.index import Modality
from medxlate.dataset.labels import Task
from medxlate.dataset.loading import Order, Slices


def small(folder: Path, dtype=np.uint8, **options) -> tuple[Array, Modality]:
    images = noise(7, 32, 32, dtype=dtype)
    labels = options.pop("labels", np.arange(7) + 60.5)
    bytes_of_three = 3 * images[0].nbytes
    return images, write_dataset(folder, images, labels, shard_bytes=bytes_of_three, **options)


# --- slices ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_batch_holds_the_stored_pixels_from_minus_one_to_one(tmp_path, dtype):
    images, modality = small(tmp_path, dtype)
    assert len(modality.shards) == 3
    rows = [6, 0, 3, 5]
    batch = Slices(modality, rows, task=AGE, image_size=32).batch([3, 0, 2])
    assert batch.images.dtype == torch.float32
    assert batch.images.shape == (3, 1, 32, 32)
    truth = images[[5, 6, 3]] / np.iinfo(dtype).max * 2 - 1
    np.testing.assert_allclose(batch.images[:, 0].numpy(), truth, atol=1e-6)
    assert batch.labels.tolist() == [65.5, 66.5, 63.5]


def test_patients_and_labels_follow_the_rows(tmp_path):
    _, modality = small(tmp_path)
    slices = Slices(modality, [6, 0, 3], task=AGE, image_size=32)
    assert len(slices) == 3
    assert slices.patients == ["p3", "p0", "p1"]
    assert slices.labels.tolist() == [66.5, 60.5, 63.5]
    assert slices.labels.dtype == torch.float32


def test_classes_become_their_places_in_the_task(tmp_path):
    task = Task(kind="classification", name="finding", classes=("ill", "odd", "well"))
    names = ["well", "ill", "odd", "ill", "well", "odd", "ill"]
    _, modality = small(tmp_path, labels=names, task=task)
    slices = Slices(modality, range(7), task=task, image_size=32)
    assert slices.batch([0, 1, 2]).labels.tolist() == [2, 0, 1]
    assert slices.labels.dtype == torch.int64


def test_images_are_brought_to_the_asked_size(tmp_path):
    images, modality = small(tmp_path)
    batch = Slices(modality, range(7), task=AGE, image_size=16).batch([0, 1])
    assert batch.images.shape == (2, 1, 16, 16)
    truth = images[:2].mean(axis=(1, 2)) / 255 * 2 - 1
    np.testing.assert_allclose(batch.images.mean(dim=(1, 2, 3)).numpy(), truth, atol=0.02)


@pytest.mark.parametrize("batch_size", [1, 3, 7, 100])
def test_batches_yield_every_slice_once_in_order(tmp_path, batch_size):
    _, modality = small(tmp_path)
    slices = Slices(modality, range(7), task=AGE, image_size=32)
    batches = list(slices.batches(batch_size))
    assert torch.equal(torch.cat([batch.labels for batch in batches]), slices.labels)
    whole = slices.batch(range(7)).images
    assert torch.equal(torch.cat([batch.images for batch in batches]), whole)
    assert max(len(batch.labels) for batch in batches) == min(batch_size, 7)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_reading_a_large_dataset_does_not_fill_the_memory(tmp_path):
    megabyte, side = 2**20, 256
    block = noise(16, side, side)
    images = (block[i % 16] for i in range(200 * megabyte // side**2))
    count = 200 * megabyte // side**2
    modality = write_dataset(tmp_path, images, np.zeros(count), shard_bytes=40 * megabyte)
    assert sum(shard.stat().st_size for shard in modality.shards) > 200 * megabyte
    slices = Slices(modality, range(count), task=AGE, image_size=side)
    slices.batch(range(16))
    before = resident_memory()
    most = 0
    for batch in slices.batches(16):
        assert batch.images.shape == (16, 1, side, side)
        most = max(most, resident_memory() - before)
    assert most < 60 * megabyte


# --- order -----------------------------------------------------------------------------------


def positions(count: int, total: int, batch_size: int = 1, **options) -> list[int]:
    order = Order(count, **{"seed": 0, "name": "mri", **options})
    return [item for step in range(total // batch_size) for item in order.take(step, batch_size)]


@pytest.mark.parametrize("batch_size", [1, 3, 10])
def test_every_pass_shows_each_item_once(batch_size):
    seen = positions(10, 60, batch_size)
    passes = [seen[i : i + 10] for i in range(0, 60, 10)]
    assert all(sorted(one) == list(range(10)) for one in passes)
    assert len({tuple(one) for one in passes}) == 6


def test_the_order_depends_on_seed_and_name_alone():
    assert positions(50, 150) == positions(50, 150)
    assert positions(50, 150, batch_size=5) == positions(50, 150)
    assert positions(50, 150, seed=1) != positions(50, 150)
    assert positions(50, 150, name="ct") != positions(50, 150)


def test_a_step_is_the_same_whatever_was_read_before():
    sequential = Order(7, seed=3, name="mri")
    truth = [sequential.take(step, 4) for step in range(30)]
    jumping = Order(7, seed=3, name="mri")
    for step in np.random.default_rng(0).permutation(30):
        assert jumping.take(int(step), 4) == truth[step]
    assert Order(7, seed=3, name="mri").take(29, 4) == truth[29]


def test_a_batch_larger_than_the_modality_goes_round():
    assert sorted(Order(3, seed=0, name="ct").take(0, 6)) == [0, 0, 1, 1, 2, 2]
