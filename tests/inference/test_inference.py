"""The pipeline, the engine, tiles and what is chosen for the user."""

from __future__ import annotations

import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import tiny
from medxlate.artifacts.info import read_model
from medxlate.base import device as device_module
from medxlate.base.device import Compute, is_out_of_memory
from medxlate.base.errors import CapacityError, ImageError, UsageError
from medxlate.base.events import Event, Progress, Stage, Warned
from medxlate.base.files import write_json
from medxlate.base.records import read_json
from medxlate.images import open as open_module
from medxlate.images.quiet import without_warnings
from medxlate.inference import translator as translator_module
from medxlate.inference.engine import Engine, run, starting_size, validated_compute
from medxlate.inference.inputs import Reader
from medxlate.inference.outputs import Outputs
from medxlate.inference.pipeline import ahead, behind
from medxlate.inference.predict import predict
from medxlate.inference.tiles import places, run_tiles
from medxlate.inference.translate import Translator, translate
from medxlate.method import compiling

CPU = Compute(torch.device("cpu"), "fp32")
WAIT = 0.05  # seconds in which a thread would do what it must not do


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model on 8-bit images; treat it as read-only."""
    return tiny.write_tiny_model(tmp_path_factory.mktemp("model"), target_recipe=tiny.AS_IS)


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())  # a decoder's stays as long as the process
    yield
    after = set(threading.enumerate()) - before
    assert [thread.name for thread in after if thread.name.startswith("medxlate-")] == []


def write_images(folder: Path, count: int) -> Path:
    for i in range(count):
        tiny.save(folder / f"{i:03d}.png", tiny.noise(32, 32, seed=i))
    return folder


def within(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.002)
    return condition()


# ---- reading ahead


def test_items_come_in_order_from_another_thread() -> None:
    threads: set[int] = set()

    def items() -> Iterator[int]:
        for i in range(50):
            threads.add(threading.get_ident())
            yield i

    with ahead(items()) as taken:
        assert list(taken) == list(range(50))
    assert len(threads) == 1
    assert threading.get_ident() not in threads


@pytest.mark.parametrize("depth", [1, 3])
def test_no_more_is_read_than_there_is_room_for(depth: int) -> None:
    begun: list[int] = []

    def items() -> Iterator[int]:
        for i in range(20):
            begun.append(i)
            yield i

    with ahead(items(), depth=depth) as taken:
        for used in range(5):
            assert within(lambda used=used: len(begun) == used + depth)  # type: ignore[misc]
            time.sleep(WAIT)
            assert len(begun) == used + depth
            assert next(taken) == used


def test_what_reading_raises_comes_after_what_was_read() -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise OSError("the disk is gone")

    seen: list[int] = []

    def take_all() -> None:
        with ahead(items()) as taken:
            for item in taken:
                seen.append(item)

    with pytest.raises(OSError, match="the disk is gone") as caught:
        take_all()
    assert seen == [1, 2]
    assert "items" in [entry.name for entry in caught.traceback]  # it says where it happened


def test_leaving_early_closes_what_is_read() -> None:
    closed = threading.Event()

    def items() -> Iterator[int]:
        try:
            yield from range(10**9)
        finally:
            closed.set()

    def interrupted() -> None:
        with ahead(items()) as taken:
            next(taken)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert closed.is_set()


# ---- writing behind


def test_items_are_written_in_order_by_one_thread() -> None:
    written: list[tuple[int, int]] = []
    with behind(lambda i: written.append((i, threading.get_ident()))) as put:
        for i in range(50):
            put(i)
    assert [i for i, _ in written] == list(range(50))
    assert len({thread for _, thread in written} - {threading.get_ident()}) == 1


def test_a_slow_writer_holds_up_the_others() -> None:
    may_write, put_so_far = threading.Event(), []

    def write(item: int) -> None:
        may_write.wait(10)

    def fill(put: Callable[[int], None]) -> None:
        for i in range(6):
            put(i)
            put_so_far.append(i)

    with behind(write, depth=2) as put:
        other = threading.Thread(target=fill, args=(put,))
        other.start()
        assert within(lambda: len(put_so_far) == 2)
        time.sleep(WAIT)
        assert len(put_so_far) == 2
        may_write.set()
        other.join(10)
    assert len(put_so_far) == 6


@pytest.mark.parametrize("count", [3, 100])
def test_what_writing_raises_stops_the_block(count: int) -> None:
    written: list[int] = []

    def write(item: int) -> None:
        if item == 2:
            raise OSError("the disk is full")
        written.append(item)

    def put_all() -> None:
        with behind(write) as put:
            for i in range(count):
                put(i)

    with pytest.raises(OSError, match="the disk is full"):
        put_all()
    assert written == [0, 1]


def test_nothing_more_is_written_where_the_block_fails() -> None:
    first, may_write, written = threading.Event(), threading.Event(), []

    def write(item: int) -> None:
        first.set()
        may_write.wait(10)
        written.append(item)

    def interrupted() -> None:
        with behind(write, depth=3) as put:
            for i in range(3):
                put(i)
            assert first.wait(10)
            threading.Timer(WAIT, may_write.set).start()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert written == [0]


def test_warnings_stay_silent_where_threads_overlap() -> None:
    entered, leave = threading.Event(), threading.Event()

    def other() -> None:
        with without_warnings():
            entered.set()
            leave.wait(10)

    before = list(warnings.filters)
    thread = threading.Thread(target=other)
    with without_warnings():
        thread.start()
        assert entered.wait(10)
    warnings.warn("the other thread is still inside", stacklevel=1)  # an error but for it
    leave.set()
    thread.join()
    assert list(warnings.filters) == before
    with pytest.raises(UserWarning):
        warnings.warn("nobody is", stacklevel=1)


# ---- the engine


class Limited(nn.Module):
    """An identity that runs out of memory above some number of pixels."""

    def __init__(self, pixels: int, error: Callable[[], Exception]) -> None:
        super().__init__()
        self.pixels = pixels
        self.error = error
        self.seen: list[tuple[int, int]] = []

    def forward(self, images: Tensor) -> Tensor:
        if images.numel() > self.pixels:
            raise self.error()
        self.seen.append((len(images), images.shape[-1]))
        return images


def cuda_error() -> Exception:
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")


def cpu_error() -> Exception:
    return RuntimeError(
        "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: "
        "you tried to allocate 99 bytes. Error code 12 (Cannot allocate memory)"
    )


@pytest.mark.parametrize("error", [cuda_error, cpu_error, MemoryError])
def test_a_batch_is_halved_until_it_fits(error: Callable[[], Exception]) -> None:
    events: list[Event] = []
    network = Limited(3 * 128**2, error)
    engine = Engine(network, CPU, batch_size=16, listener=events.append)
    images = torch.rand(21, 1, 128, 128)
    assert torch.equal(engine(images), images)
    assert network.seen == [(2, 128)] * 10 + [(1, 128)]
    assert [event.text.split(":")[0] for event in events if isinstance(event, Warned)] == [
        f"Memory ran out with batches of {count} images" for count in (16, 8, 4)
    ]
    assert "using 2 from now on" in events[-1].text  # type: ignore[attr-defined]
    network.seen.clear()
    assert torch.equal(engine(images[:4]), images[:4])  # what fits is remembered
    assert (network.seen, len(events)) == ([(2, 128)] * 2, 3)


def test_the_real_allocator_is_understood() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**62, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    assert not is_out_of_memory(RuntimeError("shapes do not match"))
    assert not is_out_of_memory(ValueError("out of memory"))


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    engine = Engine(Limited(0, lambda: RuntimeError("shapes")), CPU, batch_size=4, tiles=True)
    with pytest.raises(RuntimeError, match="shapes"):
        engine(torch.zeros(4, 1, 128, 128))


def test_an_image_beyond_memory_is_computed_in_tiles() -> None:
    events: list[Event] = []
    network = Limited(64**2, cpu_error)
    engine = Engine(network, CPU, batch_size=2, tiles=True, listener=events.append)
    images = torch.rand(3, 1, 256, 256) * 2 - 1
    torch.testing.assert_close(engine(images), images, rtol=0, atol=1e-6)
    assert set(network.seen) == {(1, 64)}
    assert (engine.batch_size, engine.tile) == (1, 64)
    assert "using tiles of 64 px" in events[-1].text  # type: ignore[attr-defined]


@pytest.mark.parametrize(("tiles", "named"), [(False, "image of 256"), (True, "tile of 64")])
def test_what_does_not_fit_at_all_is_an_error_that_helps(tiles: bool, named: str) -> None:
    engine = Engine(Limited(63**2, cuda_error), CPU, batch_size=4, tiles=tiles)
    with pytest.raises(CapacityError, match=named) as caught:
        engine(torch.zeros(1, 1, 256, 256))
    assert "--device" in caught.value.hint


def test_smaller_batches_are_filled_up_for_a_compiled_network() -> None:
    network = Limited(10**9, cpu_error)
    engine = Engine(network, CPU, batch_size=4)
    engine.padded = True
    images = torch.rand(6, 1, 8, 8)
    assert torch.equal(engine(images), images)
    assert network.seen == [(4, 8), (4, 8)]


def test_run_takes_batches_from_a_thread_and_backs_off() -> None:
    network = Limited(2 * 8**2, cpu_error).train()
    images = torch.rand(9, 1, 8, 8)
    found = run(network, (part for part in images.split(4)), compute=CPU)
    assert torch.equal(found, images)
    assert network.training
    with pytest.raises(RuntimeError, match="cannot read"):
        run(network, (exec("raise RuntimeError('cannot read')") for _ in range(2)), compute=CPU)


def test_the_starting_size_follows_the_images() -> None:
    assert [starting_size(CPU, side) for side in (16, 128, 256, 512, 2048)] == [256, 4, 1, 1, 1]
    cuda = Compute(torch.device("cuda"), "bf16")
    assert starting_size(cuda, 256) > starting_size(cuda, 512) > starting_size(CPU, 512)


# ---- tiles


@pytest.mark.parametrize(("side", "tile"), [(64, 64), (64, 32), (100, 32), (256, 96), (68, 64)])
def test_tiles_cover_the_side_and_overlap(side: int, tile: int) -> None:
    begin = places(side, tile)
    assert (begin[0], begin[-1]) == (0, side - tile)
    assert all(place % 4 == 0 for place in begin)
    steps = np.diff(begin)
    assert all(0 < step <= tile - tile // 4 for step in steps)


@pytest.mark.parametrize(("side", "tile"), [(64, 32), (100, 32), (256, 96), (64, 100)])
def test_networks_that_work_pixel_by_pixel_see_no_tiles(side: int, tile: int) -> None:
    images = torch.rand(2, 1, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1
    for network in (nn.Identity(), nn.Tanh(), nn.Conv2d(1, 1, 1)):
        with torch.no_grad():
            found = run_tiles(network, images, tile)
            torch.testing.assert_close(found, network(images), rtol=0, atol=1e-6)


def test_tiles_that_differ_leave_no_seam() -> None:
    """Each tile comes out at a level of its own; the blend runs smoothly between them."""
    torch.manual_seed(0)
    levels = iter(torch.linspace(-1, 1, 16)[torch.randperm(16)].tolist())
    found = run_tiles(
        lambda part: torch.full_like(part, next(levels)), torch.zeros(1, 1, 200, 200), 64
    )
    across = torch.stack([found.diff(dim=-1).abs().max(), found.diff(dim=-2).abs().max()]).max()
    assert next(levels, None) is None  # 4 x 4 tiles
    assert float(across) < 0.25  # of 2; side by side they would jump by up to 2
    assert float(found.max() - found.min()) > 1


def test_tiles_of_a_local_network_equal_the_whole_inside() -> None:
    """Beyond a convolution's reach from a tile's edge nothing differs."""
    torch.manual_seed(0)
    network = nn.Conv2d(1, 1, 3, padding=1)
    images = torch.rand(1, 1, 64, 64)
    with torch.no_grad():
        difference = (run_tiles(network, images, 32) - network(images)).abs()
    assert float(difference.max()) < 0.02  # at an edge, where a tile hardly counts
    assert float(difference.median()) < 1e-6


# ---- choices


def info_of(model: Path, precision: str) -> Any:
    return read_model(model).model_copy(update={"precision": precision})


@pytest.mark.parametrize(
    ("native", "validated", "asked", "wanted"),
    [
        (True, "bf16", "auto", "bf16"),
        (True, "fp32", "auto", "fp32"),
        (False, "bf16", "auto", "fp32"),
        (True, "fp32", "bf16", "bf16"),
        (True, "bf16", "fp32", "fp32"),
        (False, "bf16", "bf16", "fp32"),
    ],
)
def test_bf16_is_taken_on_request_or_where_validated(
    monkeypatch: pytest.MonkeyPatch,
    model: Path,
    native: bool,
    validated: str,
    asked: str,
    wanted: str,
) -> None:
    monkeypatch.setattr(device_module, "has_native_bf16", lambda _: native)
    events: list[Event] = []
    info = info_of(model, validated)
    compute = validated_compute(info, "cpu", asked, listener=events.append)
    assert compute.precision == wanted
    assert len(events) == (asked == "bf16" and not native)  # it says that it is fp32


def test_a_model_of_an_older_version_counts_as_fp32(tmp_path: Path) -> None:
    model = tiny.write_tiny_model(tmp_path)
    record = read_json(model / "model.json", error=ImageError)
    del record["precision"]
    write_json(model / "model.json", record)
    assert read_model(model).precision == "fp32"


@pytest.mark.parametrize(
    ("choice", "device", "repeats", "wanted"),
    [
        ("off", "cuda", 10**6, False),
        ("on", "cpu", 1, True),
        ("auto", "cpu", 10**6, False),  # measured: it saves nothing there
        ("auto", "cuda", compiling.WORTH_COMPILING - 1, False),
        ("auto", "cuda", compiling.WORTH_COMPILING, True),
    ],
)
def test_networks_are_compiled_on_a_gpu_for_many_repeats(
    monkeypatch: pytest.MonkeyPatch,
    choice: compiling.Choice,
    device: str,
    repeats: int,
    wanted: bool,
) -> None:
    tried: list[nn.Module] = []
    monkeypatch.setattr(compiling, "try_compile", lambda network, _: tried.append(network))
    events: list[Event] = []
    found = compiling.compile_where_it_pays(
        nn.Identity(), lambda: None, choice=choice, device=device, repeats=repeats,
        listener=events.append,
    )  # fmt: skip
    assert found is wanted
    assert len(tried) == wanted
    texts = [event.text for event in events if isinstance(event, Stage)]
    assert texts == (["Compiling the networks (takes a minute or more)"] if wanted else [])


def test_a_network_that_does_not_compile_runs_eagerly(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr(compiling, "BACKEND", broken)
    events: list[Event] = []
    inputs = write_images(tmp_path / "in", 3)
    translate(inputs, out=tmp_path / "on", model=model, device="cpu", compiling="on",
              listener=events.append)  # fmt: skip
    assert any(isinstance(e, Warned) and "no C++ compiler" in e.text for e in events)
    translate(inputs, out=tmp_path / "off", model=model, device="cpu", compiling="off")
    for name in ("000.png", "002.png"):
        assert (tmp_path / "on" / name).read_bytes() == (tmp_path / "off" / name).read_bytes()


def test_a_compiled_translation_is_the_same(tmp_path: Path, model: Path) -> None:
    """Five slices in batches of two: the last one is filled up, and nothing is compiled again."""
    translator = Translator(model, compute=CPU, batch_size=2)
    images = torch.rand(5, 1, 32, 32, generator=torch.Generator().manual_seed(3)) * 2 - 1
    eager = translator.engine(images)
    translator.compile_where_it_pays("on", 5, lambda _: None)
    assert translator.engine.padded
    with torch.compiler.set_stance("fail_on_recompile"):
        torch.testing.assert_close(translator.engine(images), eager, rtol=0, atol=1e-4)


# ---- translate and predict


def test_an_unknown_choice_or_tile_is_refused(tmp_path: Path, model: Path) -> None:
    inputs = write_images(tmp_path / "in", 1)
    with pytest.raises(UsageError, match="for --compile: of"):
        translate(inputs, out=tmp_path / "out", model=model, compiling="of")
    with pytest.raises(UsageError, match="--tile 30"):
        translate(inputs, out=tmp_path / "out", model=model, tile=30)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("tile", [0, 16])
def test_the_batch_changes_no_byte(tmp_path: Path, model: Path, tile: int) -> None:
    inputs = write_images(tmp_path / "in", 7)
    for size in (1, 3, None):
        out = tmp_path / str(size)
        translate(inputs, out=out, model=model, device="cpu", batch_size=size, tile=tile)
    for i in range(7):
        name = f"{i:03d}.png"
        one, three, auto = (
            np.asarray(tiny.PIL.Image.open(tmp_path / size / name)).astype(int)
            for size in ("1", "3", "None")
        )
        assert np.abs(one - three).max() <= 1  # of 255: rounding, where a library sums otherwise
        assert np.abs(one - auto).max() <= 1


def test_tiles_are_used_where_asked(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = Limited(10**9, cpu_error).eval()
    monkeypatch.setattr(translator_module, "load_generator", lambda *_: ("mri", network))
    inputs = write_images(tmp_path / "in", 2)
    translate(inputs, out=tmp_path / "out", model=model, device="cpu", tile=16)
    assert {side for _, side in network.seen} == {16}
    for i in range(2):
        with tiny.PIL.Image.open(tmp_path / "out" / f"{i:03d}.png") as image:
            assert np.abs(np.asarray(image).astype(int) - tiny.noise(32, 32, seed=i)).max() <= 1


def test_memory_that_runs_out_loses_nothing(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = Limited(2 * 32**2, cpu_error).eval()
    monkeypatch.setattr(translator_module, "load_generator", lambda *_: ("mri", network))
    events: list[Event] = []
    inputs = write_images(tmp_path / "in", 7)
    result = translate(
        inputs, out=tmp_path / "out", model=model, device="cpu", batch_size=6,
        listener=events.append,
    )  # fmt: skip
    assert (result.files, result.failed) == (7, {})
    assert any(isinstance(e, Warned) and "using 1 from now on" in e.text for e in events)
    for i in range(7):
        with tiny.PIL.Image.open(tmp_path / "out" / f"{i:03d}.png") as image:
            assert np.abs(np.asarray(image).astype(int) - tiny.noise(32, 32, seed=i)).max() <= 1


def test_what_fails_is_told_in_the_order_of_the_files(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it fails in the reader's or in the writer's thread."""
    inputs = write_images(tmp_path / "in", 8)
    for number in (1, 2, 6):
        path = inputs / f"{number:03d}.png"
        path.write_bytes(path.read_bytes()[:-400])
    usual = Outputs.put

    def put(self: Outputs, item: Any, pixels: Any) -> None:
        if item.slice.file in ("003.png", "007.png"):
            raise ImageError("it cannot be written")
        usual(self, item, pixels)

    monkeypatch.setattr(Outputs, "put", put)
    wanted = ["001.png", "002.png", "003.png", "006.png", "007.png"]
    for size in (1, 2):
        out = tmp_path / str(size)
        result = translate(inputs, out=out, model=model, device="cpu", batch_size=size)
        assert list(result.failed) == wanted
        assert result.files == 3
    table = predict(inputs, out=tmp_path / "p.csv", model=model, device="cpu", batch_size=2)
    assert list(table.failed) == ["001.png", "002.png", "006.png"]


@pytest.mark.parametrize("where", ["read", "write"])
def test_an_error_of_a_thread_is_raised_and_nothing_stands_in_place(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise OSError(28, "No space left on device", "x.png")

    if where == "read":
        monkeypatch.setattr("medxlate.inference.inputs.to_network", broken)
    else:
        monkeypatch.setattr(Outputs, "put", broken)
    inputs = write_images(tmp_path / "in", 9)
    with pytest.raises(OSError, match="No space left"):
        translate(inputs, out=tmp_path / "deep" / "out", model=model, device="cpu", batch_size=1)
    assert {path.name for path in (tmp_path / "deep").iterdir()} == {".out.work"}


def test_memory_does_not_grow_with_the_images(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of what was read, never more than a few batches are there, however slow the writer is."""
    inputs_read: list[weakref.ref[Any]] = []
    stacks: list[weakref.ref[Any]] = []
    most: list[tuple[int, int]] = []
    slices, open_stack, put = Reader.slices, open_module.open_stack, Outputs.put

    def watched(self: Reader, *args: Any) -> Iterator[Any]:
        for item in slices(self, *args):
            inputs_read.append(weakref.ref(item))
            yield item

    def opened(*args: Any) -> Any:
        stack = open_stack(*args)
        stacks.append(weakref.ref(stack))
        return stack

    def slow(self: Outputs, item: Any, pixels: Any) -> None:
        time.sleep(0.005)
        most.append(tuple(sum(r() is not None for r in refs) for refs in (inputs_read, stacks)))
        put(self, item, pixels)

    monkeypatch.setattr(Reader, "slices", watched)
    monkeypatch.setattr(open_module, "open_stack", opened)
    monkeypatch.setattr(Outputs, "put", slow)
    inputs = write_images(tmp_path / "in", 60)
    translate(inputs, out=tmp_path / "out", model=model, device="cpu", batch_size=2)
    assert len(inputs_read) == len(stacks) == len(most) == 60
    assert max(slices for slices, _ in most) <= 2 * (2 + 2 + 3)  # two queues, three threads
    assert max(volumes for _, volumes in most) <= 2  # one that is read, one that is being let go


def test_progress_is_told_by_the_callers_thread(tmp_path: Path, model: Path) -> None:
    events: list[tuple[Event, int]] = []
    inputs = write_images(tmp_path / "in", 5)
    translate(
        inputs, out=tmp_path / "out", model=model, device="cpu", batch_size=2,
        listener=lambda event: events.append((event, threading.get_ident())),
    )  # fmt: skip
    assert {thread for _, thread in events} == {threading.get_ident()}
    done = [event.done for event, _ in events if isinstance(event, Progress)]
    assert done == [0, 2, 4, 5]
