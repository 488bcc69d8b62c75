"""The loader against the plain way: read the order's items, one step after the other."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import tiny
from conftest import noise
from datasets_on_disk import AGE, resident_memory, write_dataset
from medxlate.base.errors import DataError
from medxlate.base.events import StepLogged
from medxlate.cli.console import Reporter
from medxlate.dataset.loading import Order, Slices
from medxlate.images.recipes import to_network
from medxlate.training import loader as feeding
from medxlate.training.loader import (
    AHEAD,
    THREAD,
    Prefetcher,
    Resident,
    TrainLoader,
    as_tensor,
    reside,
    to_images,
)
from medxlate.training.record import read_events
from medxlate.training.train import train

CPU = torch.device("cpu")
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
DEVICES = ["cpu", pytest.param("cuda", marks=[on_gpu, pytest.mark.gpu])]
NOTHING, ALL = 0, 1 << 30


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith(THREAD)]


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    assert threads() == []


def modality_of(folder: Path, dtype=np.uint16, count: int = 7):
    images = noise(count, 32, 32, dtype=dtype)
    return write_dataset(folder, images, np.arange(count) + 60.5, shard_bytes=3 * images[0].nbytes)


def variants(folder: Path) -> dict[str, Slices]:
    """Slices of every kind: 16 and 8 bits, resized, and with other images."""
    deep, shallow = modality_of(folder / "deep"), modality_of(folder / "shallow", np.uint8, 5)
    some = [6, 0, 3, 5]
    fakes = np.random.default_rng(5).random((7, 32, 32), dtype=np.float32) * 2 - 1
    made = Slices(deep, range(7), task=AGE, image_size=32)
    return {
        "a": Slices(deep, some, task=AGE, image_size=32),
        "b": Slices(shallow, range(5), task=AGE, image_size=32),
        "c": Slices(deep, some, task=AGE, image_size=16),
        "d": made.with_images(lambda i: fakes[i]),
    }


def plainly(slices: dict[str, Slices], step: int, batch_size: int):
    return {
        name: some.batch(Order(len(some), seed=3, name=name).take(step, batch_size))
        for name, some in slices.items()
    }


def same(one, other) -> bool:
    return list(one) == list(other) and all(
        torch.equal(one[name].images.cpu(), other[name].images)
        and torch.equal(one[name].labels.cpu(), other[name].labels)
        and one[name].images.dtype == torch.float32
        for name in one
    )


# 4 x 32 x 32 x 2 bytes hold modality a, 5 x 32 x 32 more b: the others are streamed.
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("room", [NOTHING, 4 * 32 * 32 * 2, 13 * 32 * 32, ALL])
@pytest.mark.parametrize("batch_size", [1, 3, 9])
def test_a_step_gets_the_same_bits_as_on_the_plain_way(tmp_path, room, batch_size, device):
    slices = variants(tmp_path)
    options = {"batch_size": batch_size, "seed": 3, "device": torch.device(device)}
    with TrainLoader(slices, **options, room=room) as feed:
        for step in [*range(12), 100, 101, 4, 5]:
            found = feed.take(step)
            assert same(found, plainly(slices, step, batch_size))
            assert all(batch.images.device.type == device for batch in found.values())
    with TrainLoader(slices, **options, room=room) as feed:  # as after a resume
        assert same(feed.take(8), plainly(slices, 8, batch_size))


def test_slices_are_what_the_networks_see_in_use(tmp_path):
    images = noise(7, 32, 32, dtype=np.uint16)
    for size in (32, 16):
        slices = Slices(modality_of(tmp_path / str(size)), range(7), task=AGE, image_size=size)
        truth = np.stack([to_network(images[i], size) for i in (4, 1)])
        np.testing.assert_array_equal(slices.batch([4, 1]).images[:, 0].numpy(), truth)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_every_stored_value_becomes_the_same_bits(dtype, device):
    values = np.arange(np.iinfo(dtype).max + 1).astype(dtype).reshape(1, 16, -1)
    found = to_images(as_tensor(values).to(device))
    truth = values.astype(np.float32) / np.float32(np.iinfo(dtype).max) * 2 - 1
    np.testing.assert_array_equal(found[:, 0].cpu().numpy(), truth)


def test_the_order_of_names_decides_who_is_resident(tmp_path):
    slices = variants(tmp_path)
    sizes = {"a": 4 * 32 * 32 * 2, "b": 5 * 32 * 32, "c": 4 * 16 * 16 * 4, "d": 7 * 32 * 32 * 4}
    held, read = reside(slices, CPU, sum(sizes.values()))
    assert (list(held), list(read)) == (["a", "b", "c", "d"], [])
    held, read = reside(slices, CPU, sizes["a"] + sizes["c"])
    assert (list(held), list(read)) == (["a", "c"], ["b", "d"])
    assert held["a"]._kept.element_size() == 2
    assert reside(slices, CPU, 0) == ({}, slices)


def test_resident_slices_yield_what_read_ones_do(tmp_path):
    for some in variants(tmp_path).values():
        pairs = zip(Resident(some, CPU).batches(3), some.batches(3), strict=True)
        for one, other in pairs:
            assert torch.equal(one.images, other.images)
            assert torch.equal(one.labels, other.labels)


def test_a_resident_set_is_read_once(tmp_path, monkeypatch):
    monkeypatch.setattr(feeding, "_BLOCK", 3)
    slices = variants(tmp_path)
    resident = Resident(slices["d"], CPU)
    slices["d"]._kept = lambda _: pytest.fail("read again")
    resident.batch([0, 6])
    list(resident.batches(2))


# --- the thread ------------------------------------------------------------------------------


def test_it_reads_ahead_but_not_without_end():
    made: list[int] = []
    ahead = Prefetcher(lambda step: made.append(step) or step, first=5)
    assert ahead.take() == 5
    until(lambda: len(made) == AHEAD + 2)
    time.sleep(0.05)
    assert made == list(range(5, 5 + AHEAD + 2))
    assert [ahead.take() for _ in range(3)] == [6, 7, 8]
    ahead.close()


def test_a_problem_in_the_thread_reaches_the_loop(tmp_path):
    slices = variants(tmp_path)["a"]

    def read(index: int):
        if index == 2:
            raise DataError("The shard is gone.") from OSError("stale handle")
        return np.zeros((32, 32), np.float32)

    replaced = {"a": slices.with_images(read)}
    with TrainLoader(replaced, batch_size=4, seed=0, device=CPU, room=NOTHING) as feed:
        for _ in range(2):  # asked again, it does not wait forever
            with pytest.raises(DataError, match="The shard is gone") as caught:
                feed.take(0)
            assert isinstance(caught.value.__cause__, OSError)
            assert "read" in [entry.name for entry in caught.traceback]


def test_a_shard_that_was_cut_off_is_an_error(tmp_path):
    slices = variants(tmp_path)["a"]
    shard = tmp_path / "deep" / "mri" / "shards" / "00001.npy"
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"00001\.npy was replaced, removed or truncated"):
        slices.batch(range(4))


@pytest.mark.parametrize("problem", [ValueError, KeyboardInterrupt])
def test_the_thread_ends_with_the_loop_however_it_ends(tmp_path, problem):
    def loop() -> None:
        with TrainLoader(
            variants(tmp_path), batch_size=2, seed=0, device=CPU, room=NOTHING
        ) as feed:
            feed.take(0)
            assert len(threads()) == 1
            raise problem

    with pytest.raises(problem):
        loop()


def test_a_feed_that_jumps_has_one_thread(tmp_path):
    with TrainLoader(variants(tmp_path), batch_size=2, seed=0, device=CPU, room=NOTHING) as feed:
        for step in (0, 7, 2):
            feed.take(step)
            assert len(threads()) == 1
        feed.close()
        assert threads() == []
        feed.take(9)


def test_resident_modalities_need_no_thread(tmp_path):
    with TrainLoader(variants(tmp_path), batch_size=2, seed=0, device=CPU) as feed:
        feed.take(0)
        assert threads() == []


@pytest.mark.alone
def test_reading_goes_on_while_the_step_is_computed(tmp_path):
    """Reading takes 10 ms a batch, computing 20: after the first, nothing is waited for."""
    slices = variants(tmp_path)["a"]

    def read(index: int):
        time.sleep(0.01)
        return np.zeros((32, 32), np.float32)

    slow = {"a": slices.with_images(read)}
    with TrainLoader(slow, batch_size=1, seed=0, device=CPU, room=NOTHING) as feed:
        feed.take(0)
        waited = 0.0
        for step in range(1, 11):
            time.sleep(0.02)
            began = time.monotonic()
            feed.take(step)
            waited += time.monotonic() - began
    assert waited < 0.05  # read in turn it would be 0.1


@pytest.mark.alone
@pytest.mark.parametrize(("seconds", "least", "most"), [(0.3, 0.4, 1.0), (0.0, 0.0, 0.3)])
def test_the_share_of_waiting_is_recorded(tmp_path, monkeypatch, seconds, least, most):
    """A step takes 50 to 200 ms here, so that reads of 0.6 s a step are mostly waited for."""
    data = tiny.write_dataset(tmp_path)
    monkeypatch.setattr(feeding, "CPU_ROOM", NOTHING)
    stored = Slices.stored

    def slow(self, indices):
        time.sleep(seconds)
        return stored(self, indices)

    monkeypatch.setattr(Slices, "stored", slow)
    heard = []
    optimizer = {"epochs": 1, "steps_per_epoch": 4}
    config = tiny.debug_config(data, optimizer=optimizer, runtime={"log_every": 100})
    run = train(config, runs=tmp_path / "runs", listener=heard.append).run
    (logged,) = [event for event in heard if isinstance(event, StepLogged)]
    assert least <= logged.data_wait < most
    (recorded,) = [e for e in read_events(run / "metrics.jsonl") if e["event"] == "step"]
    assert recorded["data_wait"] == logged.data_wait


@pytest.mark.parametrize(("wait", "shown"), [(0.35, True), (0.01, False)])
def test_notable_waiting_is_shown(wait, shown):
    bar = SimpleNamespace(update=lambda task, figures: said.append(figures))
    said: list[str] = []
    reporter = Reporter(json=False)
    reporter._bar, reporter._tasks = bar, {"training": 0}
    reporter(StepLogged(1, 1, {"predict_real": 2.0}, 30.0, wait))
    assert ("waits 35%" in said[0]) == shown
    assert ("waits" in said[0]) == shown


def until(condition) -> None:
    for _ in range(500):
        if condition():
            return
        time.sleep(0.01)
    pytest.fail("it never came")


# --- memory ----------------------------------------------------------------------------------


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
@pytest.mark.parametrize("room", [NOTHING, None])
def test_feeding_from_a_large_dataset_does_not_fill_the_memory(tmp_path, room):
    megabyte, side, count = 2**20, 256, 3200
    block = noise(16, side, side)
    images = (block[i % 16] for i in range(count))
    modality = write_dataset(tmp_path, images, np.zeros(count), shard_bytes=40 * megabyte)
    slices = {"mri": Slices(modality, range(count), task=AGE, image_size=side)}
    slices["mri"].batch(range(16))
    before = resident_memory()
    most = 0
    with TrainLoader(slices, batch_size=16, seed=0, device=CPU, room=room) as feed:
        for step in range(count // 16):
            feed.take(step)
            most = max(most, resident_memory() - before)
    assert most < 60 * megabyte
