"""How an evaluation is divided; ``test_divided.py`` does it in real processes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from medxlate.base.distributed import Ranks
from medxlate.base.errors import DataError
from medxlate.base.events import Event, Warned
from medxlate.evaluation import batches, feature_store
from medxlate.evaluation.batches import gather_predictions, own_batches
from medxlate.evaluation.feature_store import FeatureStore, common_folder, gather_features


class Numbers:
    """Slices whose images are their own numbers."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def batch(self, indices: range) -> Any:
        images = torch.tensor(list(indices), dtype=torch.float32)

        class Batch:
            pass

        Batch.images = images  # type: ignore[attr-defined]
        return Batch


class Fake(Ranks):
    """One of several processes, to which the others have said something already."""

    said: list[Any]

    def gather(self, value: Any) -> list[Any]:
        return self.said or [value] * self.count

    def gather_rows(self, rows: Tensor) -> list[Tensor]:
        return self.said or [rows]

    def broadcast(self, value: Any) -> Any:
        return value


def be(monkeypatch: pytest.MonkeyPatch, rank: int, count: int, said: Any = ()) -> None:
    team = Fake(rank, count)
    object.__setattr__(team, "said", list(said))
    for module in (batches, feature_store):
        monkeypatch.setattr(module, "ranks", lambda: team)


def doubled(images: Iterable[Tensor]) -> np.ndarray[Any, Any]:
    return np.asarray(torch.cat(list(images)) * 2)


@pytest.mark.parametrize(("slices", "count"), [(23, 2), (23, 3), (5, 3), (2, 3), (12, 2)])
def test_predictions_come_in_the_order_of_the_slices_whoever_makes_them(
    monkeypatch: pytest.MonkeyPatch, slices: int, count: int
) -> None:
    """Also where there are more processes than batches of two."""
    numbers: Any = Numbers(slices)
    made = []
    for rank in range(count):
        be(monkeypatch, rank, count)
        own = [batch.images.tolist() for batch in own_batches(numbers, 2)]
        assert all(images[0] % (2 * count) == 2 * rank for images in own)
        made.append([2 * value for images in own for value in images])
    be(monkeypatch, count - 1, count, made)
    found = gather_predictions(doubled, numbers, 2)
    assert found.tolist() == [2 * i for i in range(slices)]
    assert found.dtype == np.float32


def test_where_nothing_can_be_kept_all_share_a_folder_that_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[Event] = []
    be(monkeypatch, 0, 2)
    with common_folder(tmp_path / "kept", heard.append) as folder:
        assert folder == tmp_path / "kept"
    assert not heard
    (tmp_path / "file").write_text("")
    with common_folder(tmp_path / "file", heard.append) as folder:
        assert folder.is_dir()
        assert folder != tmp_path / "file"
    assert not folder.exists()
    assert isinstance(heard[0], Warned)


def test_features_that_no_process_kept_are_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = torch.zeros(1, 3, 4, 4, dtype=torch.uint8)
    strange = torch.full((1, 32), 7, dtype=torch.uint8)
    with FeatureStore(tmp_path, {"weights": "1"}) as store:
        own = store.features([image], lambda batch: torch.ones(len(batch), 2))
        keys = torch.tensor([list(name) for name in own.names], dtype=torch.uint8)
        be(monkeypatch, 0, 2, [keys, keys])
        assert gather_features(own, store, 2, 1)[np.arange(2)].tolist() == [[1, 1], [1, 1]]
        be(monkeypatch, 0, 2, [keys, strange])
        with pytest.raises(DataError, match="lacks the features of 1 images"):
            gather_features(own, store, 2, 1)
