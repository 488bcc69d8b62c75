"""True target images in studies: who may see them, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from medxlate.base.errors import ConfigError, DataError
from medxlate.config import Config
from medxlate.dataset.index import Dataset
from medxlate.dataset.leaks import check_no_leak
from medxlate.dataset.splits import read_split
from medxlate.dataset.training_data import open_modalities
from medxlate.method.registry import METHODS
from medxlate.phantoms.files import write_phantoms
from medxlate.study.begin import Grid, plan_study
from medxlate.study.compare import compare
from medxlate.study.plan import plan
from medxlate.study.study import StudyFolder
from medxlate.study.tables import paper_name
from medxlate.training.verify import verify_resume
from medxlate.walkthrough import prepare_phantoms
from studies import BRIEF
from tiny import SIZE, debug_config


def paired_dataset(root: Path, *, paired: int) -> Path:
    patients, pairs = {"ct": 8, "mri": 6}, {"mri": paired}
    write_phantoms(root / "raw", patients=patients, slices=2, size=SIZE, seed=1, paired=pairs)
    prepare_phantoms(root / "raw", root / "data", size=SIZE)
    return root / "data"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return paired_dataset(tmp_path_factory.mktemp("oracle"), paired=6)


def settings(data: Path, oracle: str = "oracle") -> Config:
    return debug_config(data, data={"sources": [], "oracle": oracle}, optimizer=BRIEF)


def test_a_study_compares_with_the_oracle(data: Path, tmp_path: Path) -> None:
    methods = ("target-only", "raw-mix", "histogram", "duplicate-real", "oracle")
    result = compare(settings(data), Grid(methods, repeats=2), out=tmp_path / "study")
    assert not result.failed
    assert result.findings is not None
    rows = result.findings.results
    assert set(rows["method"]) == set(methods)
    assert set(rows["sources"]) == {"", "mri"}  # the paired modality is no source
    assert rows["updates"].nunique() == 1
    seen = {method: set(rows["images_seen"][rows["method"] == method]) for method in methods}
    assert seen == {name: {2 if name == "target-only" else 4} for name in methods}
    assert rows["test_images"].eq(4).all()  # two patients of CT, not of the pairs
    folder = StudyFolder(tmp_path / "study")
    tables = open_modalities(Dataset(data), result.study.config)
    for repeat in range(2):
        split = read_split(folder.split(repeat), tables)
        check_no_leak(split, {name: each.slices for name, each in tables.items()})
    assert "- oracle: `data.oracle` = oracle" in (folder.path / "report.md").read_text()
    assert paper_name("oracle", "mri", "ct") == "Oracle (MRI → CT)"


def test_what_a_study_with_the_oracle_costs(data: Path) -> None:
    forecast = plan(settings(data), Grid(("duplicate-real", "histogram", "oracle"), repeats=2))
    assert [line.method for line in forecast.lines] == ["histogram", "duplicate-real", "oracle"]
    assert {line.count for line in forecast.lines} == {2}


def test_the_oracle_is_compared_where_there_are_pairs(data: Path) -> None:
    assert plan_study(settings(data), Grid(repeats=1)).methods == tuple(METHODS)
    without = tuple(name for name in METHODS if name != "oracle")
    assert plan_study(settings(data, oracle=""), Grid(repeats=1)).methods == without
    by_image = debug_config(
        data, data={"sources": [], "oracle": "oracle"}, split={"policy": "image"}
    )
    assert plan_study(by_image, Grid(repeats=1)).methods == without
    for config, said in (
        (settings(data, oracle=""), "needs pairs.*--set data.oracle=NAME"),
        (by_image, "needs split.policy=patient"),
    ):
        for method in ("oracle", "oracle+autoaugment"):
            with pytest.raises(ConfigError, match=said):
                plan_study(config, Grid((method,), repeats=1))


def test_pairs_of_some_patients_are_not_enough(tmp_path: Path) -> None:
    data = paired_dataset(tmp_path, paired=2)
    with pytest.raises(DataError, match=r"\d of \d mri training patients.* no image in oracle"):
        compare(settings(data), Grid(("oracle",), repeats=1), out=tmp_path / "study")
    assert not (tmp_path / "study" / "study.json").exists()
    result = compare(settings(data), Grid(("raw-mix",), repeats=1), out=tmp_path / "study")
    assert not result.failed  # nothing else needs them


@pytest.mark.parametrize("method", ["histogram+autoaugment", "duplicate-real", "oracle"])
def test_a_stopped_training_goes_on_exactly(data: Path, method: str) -> None:
    config = debug_config(data, method=method, data={"oracle": "oracle"})
    assert verify_resume(config).differences == ()
