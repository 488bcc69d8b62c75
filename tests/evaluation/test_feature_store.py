"""Features kept by content: what is computed, what is read back, what damage does."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from medxlate.base.errors import DataError, ModelError
from medxlate.base.events import Event, Warned
from medxlate.evaluation import subject as subject_module
from medxlate.evaluation.evaluate import evaluate
from medxlate.evaluation.feature_store import FOLDER, FeatureStore, image_key
from medxlate.evaluation.features import open_store, predictor_extractor
from medxlate.method.predictor import PredictorNetwork
from medxlate.training.train import train
from tiny import debug_config, write_dataset

FACTS = {"name": "means", "weights": "none"}
SIDE = 12


def some_images(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 1, SIDE, SIDE), generator=generator, dtype=torch.uint8)


class Means:
    """Features that are means over columns; counts the images that it is shown."""

    def __init__(self) -> None:
        self.shown = 0

    def __call__(self, images: Tensor) -> Tensor:
        self.shown += len(images)
        return images[:, 0].float().mean(dim=1)


def take(folder: Path | None, images: Tensor, **options: Any) -> tuple[np.ndarray[Any, Any], int]:
    """Return the features of images in batches of 7, and how many were computed."""
    means = Means()
    with FeatureStore(folder, FACTS, **options) as store:
        found = store.features(images.split(7), means)
        return found[np.arange(len(found))], means.shown


def pieces(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/*.npy"))


def test_features_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    images = some_images(9)
    with FeatureStore(tmp_path, FACTS) as store:
        found = store.features(
            [images], lambda batch: Means()(batch).log().where(batch[:, 0, 0] > 0, torch.nan)
        )
        with pytest.raises(ModelError, match="not finite"):
            found[np.arange(9)]


def test_only_unknown_images_are_computed(tmp_path: Path) -> None:
    images = some_images(1100)  # more than a piece
    expected = images[:, 0].float().mean(dim=1).numpy()
    first, computed = take(tmp_path / "f", images)
    assert computed == 1100
    np.testing.assert_array_equal(first, expected)
    again, computed = take(tmp_path / "f", images.flip(0))
    assert computed == 0
    np.testing.assert_array_equal(again, expected[::-1])
    more = torch.cat([images[:10], some_images(5, seed=1)])
    assert take(tmp_path / "f", more)[1] == 5
    assert take(tmp_path / "other", more)[1] == 15


def test_an_image_that_comes_twice_is_computed_once(tmp_path: Path) -> None:
    one = some_images(1)
    rows, computed = take(tmp_path, one.repeat(20, 1, 1, 1))
    assert computed == 1
    assert (rows == rows[0]).all()


def test_nothing_is_kept_without_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    images = some_images(30)
    np.testing.assert_array_equal(take(None, images)[0], take(tmp_path / "f", images)[0])
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_what_an_interrupted_evaluation_computed_is_kept(tmp_path: Path) -> None:
    def interrupted() -> None:
        with FeatureStore(tmp_path, FACTS) as store:
            store.features(some_images(20).split(7), Means())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert take(tmp_path, some_images(20))[1] == 0


def test_grey_images_are_told_apart_and_other_shapes_as_well() -> None:
    one, other = some_images(2)
    grey = one.expand(3, -1, -1)
    retouched = one.clone()
    retouched[0, -1, -1] += 1
    keys = [one, other, retouched, grey, other.expand(3, -1, -1), one.reshape(1, 6, 24)]
    assert len({image_key(image) for image in keys}) == len(keys)
    assert image_key(grey) == image_key(one.clone().expand(3, -1, -1))


def test_other_weights_or_another_device_have_features_of_their_own(tmp_path: Path) -> None:
    def key(seed: int, device: str = "cpu", nudge: float = 0) -> str:
        torch.manual_seed(seed)
        network = PredictorNetwork(architecture="test_resnet", outputs=1)
        with torch.no_grad():
            next(network.parameters())[0] += nudge
        extractor = predictor_extractor(network, has_classes=False)
        with open_store(tmp_path, extractor, torch.device(device)) as store:
            return store.folder.name

    assert key(0) == key(0)
    assert len({key(0), key(1), key(0, "cuda"), key(0, nudge=1e-3)}) == 4


def flip_bit(piece: Path) -> None:
    content = bytearray(piece.read_bytes())
    content[-9] ^= 1
    piece.write_bytes(content)


def cut(piece: Path) -> None:
    piece.write_bytes(piece.read_bytes()[:-40])


def cut_index(piece: Path) -> None:
    index = piece.with_suffix(".json")
    index.write_text(index.read_text()[:-40])


def empty(piece: Path) -> None:
    piece.write_bytes(b"")


@pytest.mark.parametrize("damage", [flip_bit, cut, cut_index, empty])
def test_damaged_features_are_computed_again_and_that_is_said(tmp_path: Path, damage: Any) -> None:
    images = some_images(25)
    expected, _ = take(tmp_path, images)
    damage(pieces(tmp_path)[0])
    events: list[Event] = []
    found, computed = take(tmp_path, images, listener=events.append)
    np.testing.assert_array_equal(found, expected)
    assert computed == (1 if damage is flip_bit else 25)
    (warning,) = events
    assert isinstance(warning, Warned)
    assert "damaged" in warning.text
    events.clear()
    take(tmp_path, images, listener=events.append)
    assert take(tmp_path, images, listener=events.append)[1] == 0
    assert not events


def test_a_folder_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    events: list[Event] = []
    rows, _ = take(tmp_path / "file", some_images(9), listener=events.append)
    np.testing.assert_array_equal(rows, take(None, some_images(9))[0])
    (warning,) = events
    assert isinstance(warning, Warned)
    assert "cannot store features" in warning.text


def test_what_was_not_used_for_long_goes_when_there_is_too_much(tmp_path: Path) -> None:
    for seed in range(4):
        take(tmp_path, some_images(10, seed))
        time.sleep(0.01)
    old = time.time() - 7200
    for number, piece in enumerate(sorted(pieces(tmp_path), key=lambda p: p.stat().st_mtime)):
        os.utime(piece, (old + number, old + number))
    size = pieces(tmp_path)[0].stat().st_size
    assert take(tmp_path, some_images(10, 0))[1] == 0  # used: not the oldest any longer
    take(tmp_path, some_images(1), largest=2 * size)
    assert len(pieces(tmp_path)) == len(list(tmp_path.glob("*/*.json"))) == 2
    assert [take(tmp_path, some_images(10, seed))[1] for seed in (0, 3, 1, 2)] == [0, 0, 10, 10]
    take(tmp_path, some_images(1), largest=0)  # all were used within the hour
    assert len(pieces(tmp_path)) == 4


def test_remains_of_killed_processes_go(tmp_path: Path) -> None:
    take(tmp_path, some_images(3))
    left = pieces(tmp_path)[0].parent / ".x.npy.abc.partial"
    left.write_bytes(b"x")
    take(tmp_path, some_images(3))
    assert left.exists()  # it may be being written
    os.utime(left, (0, 0))
    take(tmp_path, some_images(3))
    assert not left.exists()


def test_features_that_another_program_removes_are_missed_with_a_hint(tmp_path: Path) -> None:
    with FeatureStore(tmp_path, FACTS) as store:
        found = store.features([some_images(3)], Means())
        found[np.array([0])]
        shutil.rmtree(pieces(tmp_path)[0].parent)
        with pytest.raises(DataError, match="Evaluate again"):
            found[np.array([0])]


def test_two_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    script = (
        "import sys, test_feature_store as t\nfrom pathlib import Path\nimport numpy as np\n"
        "for seed in range(6):\n"
        "    images = t.some_images(40, seed)\n"
        "    rows, _ = t.take(Path(sys.argv[1]), images, largest=0)\n"
        "    assert np.array_equal(rows, t.take(None, images)[0])\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", script, str(tmp_path)]
    running = [subprocess.Popen(command, env=environment) for _ in range(2)]
    assert [process.wait(300) for process in running] == [0, 0]
    events: list[Event] = []
    for seed in range(6):
        assert take(tmp_path, some_images(40, seed), listener=events.append)[1] == 0
    assert not events
    assert not list(tmp_path.glob("*/.*"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("features")
    config = debug_config(write_dataset(root), optimizer={"epochs": 1, "batch_size": 2})
    train(config, runs=root / "runs", name="joint")
    return root


def test_a_second_evaluation_computes_no_features(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    shown: list[int] = []
    whole = PredictorNetwork.features

    def counted(self: PredictorNetwork, images: Tensor) -> Tensor:
        shown.append(len(images))
        return whole(self, images)

    monkeypatch.setattr(PredictorNetwork, "features", counted)
    run = folder / "runs" / "joint"
    first = evaluate(run, metrics=["fid"])
    tested = first.results
    # The floor has two halves as large as the translated set; its test images are known.
    floor = 2 * tested.translated["mri"] - tested.images
    assert sum(shown) == tested.images + tested.translated["mri"] + floor
    assert (folder / "data" / FOLDER).is_dir()
    shown.clear()
    second = evaluate(run, metrics=["fid", "kid"])
    assert not shown
    assert second.figure("fid", source="mri") == first.figure("fid", source="mri")
    # Another run on the same real images, whose translator is another one.
    shutil.copytree(run, folder / "runs" / "other")
    monkeypatch.setattr(
        subject_module,
        "run_network",
        lambda _, images, **__: torch.zeros(len(images[0]), 1, 32, 32) - 0.5,
    )
    evaluate(folder / "runs" / "other", metrics=["fid"])
    assert sum(shown) == 1  # equal images
    monkeypatch.undo()
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    shutil.rmtree(folder / "data" / FOLDER)
    assert evaluate(run, metrics=["fid", "kid"]).results.metrics == second.results.metrics


def test_images_are_translated_as_their_features_are_taken(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not all at first: they would not fit in memory."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    shutil.rmtree(folder / "data" / FOLDER, ignore_errors=True)
    monkeypatch.setattr(subject_module, "BATCHES", {"cpu": 1})
    order: list[str] = []
    translate, features = subject_module.run_network, PredictorNetwork.features

    def translating(*args: Any, **options: Any) -> Tensor:
        order.append("translate")
        return translate(*args, **options)

    def extracting(self: PredictorNetwork, images: Tensor) -> Tensor:
        order.append("extract")
        return features(self, images)

    monkeypatch.setattr(subject_module, "run_network", translating)
    monkeypatch.setattr(PredictorNetwork, "features", extracting)
    result = evaluate(folder / "runs" / "joint", metrics=["fid"])
    fakes = result.results.translated["mri"]
    begun = order.index("translate")
    assert order[begun : begun + 2 * fakes] == ["translate", "extract"] * fakes
    assert order.count("translate") == fakes
