"""``translate`` and ``predict`` that were killed, and two processes at one place.

A process that is killed is a fork of this one, so that it ends by SIGKILL at the very moment. The
generator's output depends on the batch that an image is in: another batch would be noticed.
"""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import random
import signal
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import torch
from torch import Tensor, nn

import medxlate.images.volumes
import medxlate.images.write
import tiny
from conftest import tree
from medxlate.base.errors import ImageError, OutputError
from medxlate.base.events import Event, Progress, Stage, Warned
from medxlate.base.files import locked
from medxlate.images.pseudonym import pseudonym
from medxlate.images.recipes import Recipe
from medxlate.inference import predict as predict_module
from medxlate.inference import stream as stream_module
from medxlate.inference import translate as translate_module
from medxlate.inference import translator as translator_module
from medxlate.inference import work as work_module
from medxlate.inference.outputs import Outputs
from medxlate.inference.predict import predict
from medxlate.inference.stream import units_of
from medxlate.inference.translate import translate
from medxlate.method.label_transform import LabelTransform
from preparing import save_nifti, tissue, write_series

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")

MR = Recipe(kind="mr", percentiles=(0.5, 99.5), output_range=(0.0, 1500.0))
BATCH = 3
SLICES = 7 + 5 + 4 + 6  # images, series, series, volume
KEY = "ab" * 32


class OfItsBatch(nn.Module):
    """What it makes of an image depends on the others in the batch, and on their order."""

    def forward(self, images: Tensor) -> Tensor:
        weights = torch.arange(1, len(images) + 1, dtype=torch.float32)[:, None, None, None]
        return torch.tanh(2 * images - (images * weights).mean())


@pytest.fixture(autouse=True)
def _small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "BATCHES", 1)
    monkeypatch.setattr(
        translator_module, "load_generator", lambda *_: ("mri", OfItsBatch().eval())
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both ways of the same recipe, which reads every format."""
    root = tmp_path_factory.mktemp("model")
    return tiny.write_tiny_model(root, source_recipe=MR, target_recipe=MR)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, two series of one patient, a volume, and a file that cannot be read."""
    folder = tmp_path_factory.mktemp("raw") / "in"
    for i in range(7):
        tiny.save(folder / f"a{i}.png", tiny.noise(24, 24, seed=i))
    for name, count in (("s1", 5), ("s2", 4)):
        write_series(folder / name, tissue(count, seed=count), patient="Meier-4711", Modality="MR")
    voxels = np.abs(tissue(24, seed=9)[:, :, :6]).astype(np.float32)
    save_nifti(folder / "v" / "v.nii.gz", voxels, spacing=2)
    whole = tiny.save(folder / "cut.png", tiny.noise(64, 64, seed=9)).read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    return folder


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "pseudonym.key"
    path.write_text(KEY)
    return path


def run(inputs: Path, out: Path, model: Path, **options: Any) -> Any:
    return translate(inputs, out=out, model=model, device="cpu", batch_size=BATCH, **options)


def killed(work: Callable[[], object]) -> bool:
    """Do some work in a forked process; return whether SIGKILL ended it."""
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join(60)
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


def kill(*_: object, **__: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def after(
    calls: int, function: Callable[..., Any], then: Callable[..., object] = kill
) -> Callable[..., Any]:
    """Return the function with something else in the place of a later call."""
    left = calls

    def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal left
        left -= 1
        return then(*arguments, **options) if left < 0 else function(*arguments, **options)

    return counted


def then_kill(function: Callable[..., Any]) -> Callable[..., Any]:
    def late(*arguments: Any) -> None:
        function(*arguments)
        kill()

    return late


def half_written(path: Path, *_: object, **__: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\x89PNG half")
    kill()


def in_a_table(_: object, path: Path, **__: object) -> None:
    in_a_volume(path)


def in_a_volume(path: Path, *_: object, **__: object) -> None:
    path.write_bytes(b"half")
    kill()


MOMENTS: dict[str, tuple[object, str, Callable[[Any], Any]]] = {
    "before anything": (work_module, "_write_state", lambda f: after(0, f)),
    "as the first unit is noted": (translate_module, "sha256", lambda f: after(0, f)),
    "amid the images": (Outputs, "put", lambda f: after(5, f)),
    "in an image": (
        __import__("medxlate.inference.outputs").inference.outputs,
        "write_synthetic",
        lambda f: after(4, f, half_written),
    ),
    "amid a series": (Outputs, "put", lambda f: after(9, f)),
    "amid a volume": (Outputs, "put", lambda f: after(SLICES - 2, f)),
    "in a volume": (medxlate.images.volumes, "write_nifti", lambda f: after(0, f, in_a_volume)),
    "before the record": (translate_module, "write_json", lambda f: after(0, f)),
    "before it is placed": (work_module.Work, "put", lambda f: after(0, f)),
    "when it was placed": (work_module.Work, "put", then_kill),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_translation_killed_at_a_moment_is_continued_to_the_same_bits(
    tmp_path: Path, inputs: Path, model: Path, key: Path, moment: str
) -> None:
    run(inputs, tmp_path / "truth", model, key=key)
    out = tmp_path / "deep" / "out"
    owner, name, broken = MOMENTS[moment]

    def struck() -> None:
        setattr(owner, name, broken(getattr(owner, name)))
        run(inputs, out, model, key=key)

    assert killed(struck)
    assert out.exists() is (moment == "when it was placed")
    result = run(inputs, out, model, key=key)
    assert tree(out) == tree(tmp_path / "truth")
    assert (result.slices, set(result.failed)) == (SLICES, {"cut.png"})
    assert list((tmp_path / "deep").iterdir()) == [out]


def test_killed_again_and_again_it_computes_no_finished_unit_twice(
    tmp_path: Path, inputs: Path, model: Path, key: Path
) -> None:
    """Each attempt gets a little further, until one meets its end."""
    run(inputs, tmp_path / "truth", model, key=key)
    out = tmp_path / "out"
    moments = random.Random(3)
    attempts = 0

    def struck(calls: int) -> None:
        Outputs.put = after(calls, Outputs.put)  # type: ignore[method-assign]
        run(inputs, out, model, key=key)

    while killed(lambda: struck(moments.randint(7, 11))):
        attempts += 1
        assert attempts < SLICES
    assert attempts >= 2
    assert tree(out) == tree(tmp_path / "truth")


def test_only_what_is_missing_is_computed_and_that_is_said(
    tmp_path: Path, inputs: Path, model: Path, key: Path
) -> None:
    def interrupt(event: Event) -> None:
        if isinstance(event, Progress) and event.done >= 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(inputs, tmp_path / "out", model, key=key, listener=interrupt)
    lines = (tmp_path / ".out.work" / "journal-0.jsonl").read_text().splitlines()
    done = sum(json.loads(line)["slices"] for line in lines)
    assert 3 <= done < SLICES
    heard: list[Event] = []
    run(inputs, tmp_path / "out", model, key=key, listener=heard.append)
    totals = {event.total for event in heard if isinstance(event, Progress)}
    headers = SLICES + 1  # of the file that cannot be read, too
    assert totals <= {headers - done, headers - done - 1}
    assert any(isinstance(event, Stage) and "already done" in event.text for event in heard)


@pytest.mark.parametrize("damage", ["line", "file"])
def test_a_torn_line_and_a_damaged_file_are_done_again(
    tmp_path: Path, inputs: Path, model: Path, key: Path, damage: str
) -> None:
    run(inputs, tmp_path / "truth", model, key=key)
    out, work = tmp_path / "out", tmp_path / ".out.work"

    def struck() -> None:
        work_module.Work.put = kill  # type: ignore[method-assign]
        run(inputs, out, model, key=key)

    assert killed(struck)
    path = work / "journal-0.jsonl"
    if damage == "line":
        path.write_bytes(path.read_bytes()[:-25])
    else:
        (work / "out" / "a0.png").write_bytes(b"")  # as a power cut leaves it
    (work / "out" / "stray.png").write_bytes(b"from a unit that was not finished")
    run(inputs, out, model, key=key)
    assert tree(out) == tree(tmp_path / "truth")


def test_without_a_key_a_continued_run_keeps_the_pseudonyms_and_hides_their_key(
    tmp_path: Path, inputs: Path, model: Path
) -> None:
    out, work = tmp_path / "out", tmp_path / ".out.work"

    def struck() -> None:
        Outputs.put = after(13, Outputs.put)  # type: ignore[method-assign]
        run(inputs, out, model)

    assert killed(struck)
    drawn = json.loads((work / "work.json").read_text())["drawn"]["key"]
    assert stat.S_IMODE(work.stat().st_mode) == 0o700
    assert stat.S_IMODE((work / "work.json").stat().st_mode) == 0o600
    run(inputs, out, model)
    files = sorted(out.rglob("*.dcm"))
    headers = [pydicom.dcmread(path) for path in files]
    assert {header.PatientID for header in headers} == {
        pseudonym("Meier-4711", bytes.fromhex(drawn))
    }
    assert len({header.SOPInstanceUID for header in headers}) == 9
    assert len({header.SeriesInstanceUID for header in headers}) == 2
    assert not any(drawn.encode() in path.read_bytes() for path in out.rglob("*.*"))
    assert {path.name for path in tmp_path.iterdir()} == {"out"}
    run(inputs, tmp_path / "again", model)  # another key
    other = {pydicom.dcmread(path).SOPInstanceUID for path in (tmp_path / "again").rglob("*.dcm")}
    assert not other & {header.SOPInstanceUID for header in headers}


def test_files_that_keep_their_dates_hold_the_time_of_the_beginning(
    tmp_path: Path, inputs: Path, model: Path, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, state = tmp_path / "out", tmp_path / ".out.work" / "work.json"

    def struck() -> None:
        Outputs.put = after(13, Outputs.put)  # type: ignore[method-assign]
        run(inputs, out, model, key=key, phi="keep")

    assert killed(struck)
    values = json.loads(state.read_text())
    values["drawn"]["when"] = "2001-02-03T04:05:06"
    state.write_text(json.dumps(values))
    run(inputs, out, model, key=key, phi="keep")
    headers = [pydicom.dcmread(path) for path in out.rglob("*.dcm")]
    assert "20010203" in {header.ContentDate for header in headers}
    assert "040506" in {header.ContentTime for header in headers}


@pytest.mark.parametrize("what", ["option", "input", "key"])
def test_what_was_made_from_something_else_is_not_taken_and_that_is_said(
    tmp_path: Path, inputs: Path, model: Path, key: Path, what: str
) -> None:
    own = tmp_path / "in"
    for i in range(7):
        tiny.save(own / f"a{i}.png", tiny.noise(24, 24, seed=i))

    def struck() -> None:
        work_module.Work.put = kill  # type: ignore[method-assign]
        run(own, tmp_path / "out", model, key=key)

    assert killed(struck)
    changes: dict[str, Any] = {"key": key}
    if what == "option":
        changes["tile"] = 16
    elif what == "input":
        tiny.save(own / "a3.png", tiny.noise(24, 24, seed=99))
    else:
        key.write_text("cd" * 32)
    heard: list[Event] = []
    run(own, tmp_path / "out", model, listener=heard.append, **changes)
    said = [event.text for event in heard if isinstance(event, Warned)]
    assert any("starting again" in text for text in said)
    assert not any(isinstance(event, Stage) and "already done" in event.text for event in heard)
    run(own, tmp_path / "truth", model, **changes)
    assert tree(tmp_path / "out") == tree(tmp_path / "truth")


def test_a_refused_call_does_not_throw_away_what_another_left(
    tmp_path: Path, inputs: Path, model: Path, key: Path
) -> None:
    out = tmp_path / "out"

    def struck() -> None:
        work_module.Work.put = kill  # type: ignore[method-assign]
        run(inputs, out, model, key=key)

    assert killed(struck)
    before = tree(tmp_path / ".out.work")
    tiny.save(out / "mine.png", tiny.noise(8, 8, seed=0))
    with pytest.raises(OutputError, match="not empty"):
        run(inputs, out, model, key=key, tile=16)
    assert tree(tmp_path / ".out.work") == before


@pytest.mark.parametrize("moment", ["between the renames", "before them"])
def test_a_replacement_that_was_killed_loses_neither_the_old_nor_the_new(
    tmp_path: Path, inputs: Path, model: Path, key: Path, moment: str
) -> None:
    out = tmp_path / "out"
    run(inputs, out, model, key=key, tile=16)
    old = tree(out)
    run(inputs, tmp_path / "truth", model, key=key)

    def struck() -> None:
        if moment == "before them":
            work_module.Work.put = kill  # type: ignore[method-assign]
        else:
            rename = Path.replace

            def replace(path: Path, target: Path) -> Path:
                return rename(path, target) if target != out else kill()  # type: ignore[return-value]

            Path.replace = replace  # type: ignore[assignment, method-assign]
        run(inputs, out, model, key=key, overwrite=True)

    assert killed(struck)
    assert out.exists() is (moment == "before them")
    with pytest.raises(OutputError, match="not empty"):  # --overwrite was forgotten
        run(inputs, out, model, key=key)
    assert tree(out) == old
    run(inputs, out, model, key=key, overwrite=True)
    assert tree(out) == tree(tmp_path / "truth")
    assert {path.name for path in tmp_path.iterdir()} == {"out", "truth", "pseudonym.key"}


def test_a_refusal_leaves_nothing_though_something_was_begun(tmp_path: Path, model: Path) -> None:
    (tmp_path / "in").mkdir()
    whole = tiny.save(tmp_path / "y.png", tiny.noise(64, 64, seed=1)).read_bytes()
    (tmp_path / "in" / "x.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ImageError, match="can be used"):
        run(tmp_path / "in", tmp_path / "out", model)
    with pytest.raises(ImageError, match="can be used"):
        predict(tmp_path / "in", out=tmp_path / "p.csv", model=model, device="cpu")
    assert {path.name for path in tmp_path.iterdir()} == {"in", "y.png"}


# --- two at once -----------------------------------------------------------------------------


def test_a_second_process_at_the_same_place_is_refused_and_others_are_not(
    tmp_path: Path, inputs: Path, model: Path, key: Path
) -> None:
    with locked(tmp_path / ".out.lock"):  # as the first one holds it
        with pytest.raises(OutputError, match="Another medxlate"):
            run(inputs, tmp_path / "out", model, key=key)
        heard: list[Event] = []
        run(inputs, tmp_path / "other", model, key=key, listener=heard.append)
    run(inputs, tmp_path / "out", model, key=key)
    assert tree(tmp_path / "out") == tree(tmp_path / "other")


# --- a full disk -----------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 200 KiB; for this one has to be root."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=200k", "none", place], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a disk of its own cannot be mounted here")
    yield place
    subprocess.run(["umount", place], check=True)


def test_on_a_full_disk_it_stops_and_goes_on_when_there_is_room(
    tmp_path: Path, small_disk: Path, inputs: Path, model: Path, key: Path
) -> None:
    run(inputs, tmp_path / "truth", model, key=key)
    needed = sum(len(content) for content in tree(tmp_path / "truth").values())
    ballast, out = small_disk / "ballast", small_disk / "out"
    ballast.write_bytes(bytes(200 * 1024 - needed // 2 // 4096 * 4096))
    with pytest.raises((OSError, OutputError)) as caught:
        run(inputs, out, model, key=key)
    is_full = isinstance(caught.value, OSError) and caught.value.errno == errno.ENOSPC
    assert is_full or "space" in str(caught.value)
    assert {path.name for path in small_disk.iterdir()} == {"ballast", ".out.work"}
    ballast.unlink()
    run(inputs, out, model, key=key)
    assert tree(out) == tree(tmp_path / "truth")
    assert {path.name for path in small_disk.iterdir()} == {"out"}


# --- predict ---------------------------------------------------------------------------------


PREDICT_MOMENTS: dict[str, tuple[object, str, Callable[[Any], Any]]] = {
    "amid the batches": (LabelTransform, "predictions", lambda f: after(4, f)),
    "in the table": (predict_module.pd.DataFrame, "to_csv", lambda f: after(0, f, in_a_table)),
    "before it is placed": (work_module.Work, "put", lambda f: after(0, f)),
    "when it was placed": (work_module.Work, "put", then_kill),
}


@pytest.mark.parametrize("moment", PREDICT_MOMENTS)
def test_a_prediction_killed_at_a_moment_is_continued_to_the_same_table(
    tmp_path: Path, inputs: Path, model: Path, moment: str
) -> None:
    def run(name: str, **options: Any) -> Any:
        out = tmp_path / name
        options = {"device": "cpu", "batch_size": BATCH, "force": True, **options}  # MR for CT
        return predict(inputs, out=out, model=model, **options)

    run("truth.csv")
    owner, name, broken = PREDICT_MOMENTS[moment]

    def struck() -> None:
        setattr(owner, name, broken(getattr(owner, name)))
        run("p.csv")

    assert killed(struck)
    assert (tmp_path / "p.csv").exists() is (moment == "when it was placed")
    heard: list[Event] = []
    result = run("p.csv", listener=heard.append)
    assert (tmp_path / "p.csv").read_bytes() == (tmp_path / "truth.csv").read_bytes()
    assert set(result.failed) == {"cut.png"}
    assert (result.table["level"] == "slice").sum() == SLICES
    assert {path.name for path in tmp_path.iterdir()} == {"truth.csv", "p.csv"}
    if moment == "amid the batches":
        assert any(isinstance(event, Stage) and "already done" in event.text for event in heard)


def test_a_table_that_was_there_is_not_taken_for_ones_own(
    tmp_path: Path, inputs: Path, model: Path
) -> None:
    out = tmp_path / "p.csv"

    def struck() -> None:
        work_module.Work.put = kill  # type: ignore[method-assign]
        predict(inputs, out=out, model=model, device="cpu", force=True)

    assert killed(struck)
    out.write_text("mine\n")
    with pytest.raises(OutputError, match="exists"):
        predict(inputs, out=out, model=model, device="cpu", force=True)
    assert out.read_text() == "mine\n"


# --- units -----------------------------------------------------------------------------------


def test_units_are_the_whole_list_in_order_and_single_images_fill_their_batches(
    inputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_module, "BATCHES", 2)
    from medxlate.inference.inputs import find_inputs

    scans = find_inputs(inputs, MR, name="mri", exclude=[], tags=[]).scans
    found = units_of(scans, 3)
    assert [scan for unit in found for scan in unit.scans] == list(scans)
    assert [unit.number for unit in found] == list(range(len(found)))
    assert found[0].slices == 6
    assert all(unit.slices >= 6 for unit in found[:-1])
    assert units_of([], 3) == []
