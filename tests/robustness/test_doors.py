"""Locked doors: names inside folders, private files, no pickle, and texts that stay texts."""

from __future__ import annotations

import ast
import json
import os
import shutil
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tiny
from medxlate.artifacts.card import model_card
from medxlate.artifacts.folder import load_generator
from medxlate.artifacts.info import read_model
from medxlate.artifacts.runs import find_run
from medxlate.base import errors, files, records, toml
from medxlate.base.errors import ConfigError, DataError, ModelError
from medxlate.base.files import whole_file, whole_folder
from medxlate.base.records import is_plain, safe_join
from medxlate.config import resolve
from medxlate.dataset import job, label_table, slice_table
from medxlate.dataset.index import Dataset, load_key, save_key
from medxlate.dataset.parts import write_part
from medxlate.images import limits, text_headers, texts, volumes
from medxlate.images.dicom import parse
from medxlate.report.printing import PrintedTable
from medxlate.study import study
from medxlate.study.study import read_study

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "src" / "medxlate").rglob("*.py"))
OUTSIDE = [
    "", ".", "..", "../a", "/etc/passwd", "a/b", "a\\b", "..\\a", "C:\\a", "C:a", "c:", "a\0b",
    "\0", "a\nb", "~/a/b", "//host/share", "\\\\host\\share",
]  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_dataset(tmp_path_factory.mktemp("doors"))


@pytest.fixture
def copy(data: Path, tmp_path: Path) -> Path:
    """A dataset that may be changed."""
    return Path(shutil.copytree(data, tmp_path / "data"))


# ---- names stay in their folder


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_path_is_no_name(tmp_path: Path, name: str) -> None:
    assert not is_plain(name)
    with pytest.raises(ModelError, match="refers to something outside"):
        safe_join(tmp_path, name, error=ModelError)


@pytest.mark.parametrize("name", ["a", "a.b", "..a", "translator-mri.safetensors", "é", "a b"])
def test_a_name_is_one(tmp_path: Path, name: str) -> None:
    assert safe_join(tmp_path, name, error=ModelError) == tmp_path / name


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_links_lead_nowhere_outside(tmp_path: Path) -> None:
    folder, secret = tmp_path / "folder", tmp_path / "secret"
    folder.mkdir()
    secret.write_text("x")
    (folder / "a").symlink_to(secret)
    (folder / "b").symlink_to("../secret")
    (folder / "real").write_text("y")
    (folder / "c").symlink_to("real")
    (tmp_path / "other").symlink_to(folder)  # the folder itself may be a link
    for name in "ab":
        with pytest.raises(DataError, match="outside"):
            safe_join(folder, name, error=DataError)
    assert safe_join(folder, "c", error=DataError).read_text() == "y"
    assert safe_join(tmp_path / "other", "c", error=DataError).read_text() == "y"


@pytest.mark.parametrize("place", ["ct", "ct/shards", "ct/shards/00000.npy", "ct/slices.parquet"])
@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_no_part_of_a_dataset_is_a_link_out_of_it(copy: Path, tmp_path: Path, place: str) -> None:
    Dataset(copy).modality("ct")
    moved = tmp_path / "elsewhere"
    (copy / place).rename(moved)
    (copy / place).symlink_to(moved)
    with pytest.raises(DataError, match="outside"):
        Dataset(copy).modality("ct")


@pytest.mark.parametrize("name", OUTSIDE)
def test_modalities_are_no_paths(copy: Path, name: str) -> None:
    values = json.loads((copy / "dataset.json").read_text())
    values["modalities"][name] = values["modalities"]["ct"]
    (copy / "dataset.json").write_text(json.dumps(values))
    with pytest.raises(DataError, match="the name of a modality must not be a path"):
        Dataset(copy)
    with pytest.raises(ConfigError, match="the name of a modality must not be a path"):
        resolve(overrides={"data": {"sources": [name or "/"], "target": "ct"}})


@pytest.mark.parametrize("name", OUTSIDE)
def test_weights_are_no_paths(tmp_path: Path, name: str) -> None:
    model = tiny.write_tiny_model(tmp_path)
    values = json.loads((model / "model.json").read_text())
    values["translators"]["mri"]["weights"]["file"] = name
    (model / "model.json").write_text(json.dumps(values))
    info = read_model(model)
    with pytest.raises(ModelError, match="outside"):
        load_generator(model, info, None)


def test_weights_that_were_changed_are_refused(tmp_path: Path) -> None:
    model = tiny.write_tiny_model(tmp_path)
    weights = model / "translator-mri.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ModelError, match="SHA-256"):
        load_generator(model, read_model(model), None)


@pytest.mark.parametrize("name", OUTSIDE)
def test_the_newest_run_lies_beside_its_pointer(tmp_path: Path, name: str) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "config.json").write_text("{}")
    (tmp_path / "runs" / "latest").write_text(name)
    with pytest.raises(ModelError):
        find_run(tmp_path / "runs" / "latest")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"methods": ["../../a"]}, "Unknown method"),
        ({"source_sets": [["../a"]]}, "source_sets"),
        ({"source_sets": [["/etc"]]}, "source_sets"),
        ({"repeats": 10**12}, "repeats"),
        ({"target_fractions": [0.5] * 2000, "repeats": 1000}, "cells"),
        ({"target_fractions": [-1]}, "target_fractions"),
    ],
)
def test_studies_name_no_folder_elsewhere(
    tmp_path: Path, changes: dict[str, Any], why: str
) -> None:
    values = {
        "schema_version": 1, "medxlate": "0", "methods": ["joint"], "source_sets": [["mri"]],
        "repeats": 1, "config": {"data": {"sources": ["mri"], "target": "ct"}}, "fingerprints": {},
    }  # fmt: skip
    (tmp_path / "study.json").write_text(json.dumps(values))
    read_study(tmp_path)
    (tmp_path / "study.json").write_text(json.dumps(values | changes))
    with pytest.raises(DataError, match=why):
        read_study(tmp_path)


# ---- the limits that the documentation states

LIMITS: dict[str, int] = {
    "32,768 pixels": limits.MAX_SIDE,
    "100,000,000": limits.MAX_SLICE_PIXELS,
    "1 GiB | `images": limits.MAX_VOLUME_BYTES,
    "1,032 times": limits.MAX_DEFLATE,
    "256 MiB | `images/dicom": parse.MAX_INFLATED,
    "1 MiB, 64 numbers": text_headers.MAX_TEXT,
    "256 MiB | `images/volumes.py": volumes.MAX_SKIP,
    "4 MiB | `images": texts.SIDECAR_BYTES,
    "8,192 pixels": limits.MAX_SQUARE,
    "64 MiB | `dataset": label_table.MAX_TEXT_BYTES,
    "5,000,000 |": label_table.MAX_CELLS,
    "4,096 characters": label_table.MAX_CELL,
    "16 KiB": slice_table.MAX_ROW_BYTES,
    "16 MiB | `records": records.MAX_RECORD_BYTES,
    "1 GiB | `records": records.MAX_JSON_BYTES,
    "1 MiB, 100 dots": toml.MAX_BYTES,
    "100,000 cells": study.MAX_CELLS,
    "2,000 characters": errors.LONGEST,
}
UNITS = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


@pytest.mark.parametrize("text", LIMITS)
def test_a_limit_is_as_documented(text: str) -> None:
    assert text in (ROOT / "docs" / "explanation" / "security.md").read_text(encoding="utf-8")
    number, unit = (text + " x").split()[:2]
    assert int(number.replace(",", "")) * UNITS.get(unit.strip(","), 1) == LIMITS[text]


# ---- what is being written is private


@pytest.fixture
def open_umask(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let everything be made for everybody, but for what asks for less."""
    usual = os.umask(0)
    monkeypatch.setattr(files, "UMASK", 0)
    yield
    os.umask(usual)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.skipif(sys.platform == "win32", reason="has no modes")
@pytest.mark.usefixtures("open_umask")
def test_files_are_private_while_they_are_written(tmp_path: Path) -> None:
    with whole_file(tmp_path / "a") as partial:
        assert mode(partial) == 0o600
        partial.write_text("x")
        assert mode(partial) == 0o600
    with whole_folder(tmp_path / "b", marker="m") as folder:
        assert mode(folder) == 0o700
    assert (mode(tmp_path / "a"), mode(tmp_path / "b")) == (0o666, 0o777)


@pytest.mark.skipif(sys.platform == "win32", reason="has no modes")
@pytest.mark.usefixtures("open_umask")
def test_pixels_and_secrets_are_private_while_a_dataset_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parts that lie there for minutes, and the files that stay private for good."""
    seen: set[int] = set()

    def looked_at(task: Any) -> Any:
        seen.add(mode(task.folder.parent))
        return write_part(task)

    monkeypatch.setattr(job, "write_part", looked_at)
    data = tiny.write_dataset(tmp_path)
    assert seen == {0o700}
    assert mode(data / "ct" / "identifiers.json") == 0o600
    (tmp_path / "new").mkdir()
    save_key(tmp_path / "new", bytes(32))
    assert mode(tmp_path / "new" / "pseudonym.key") == 0o600
    assert load_key(tmp_path / "new") == bytes(32)


# ---- nothing that runs what it reads

LOADERS = {
    "pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "yaml", "jsonpickle",
}  # fmt: skip
CALLS = {"eval", "exec", "compile", "__import__", "read_pickle", "to_pickle", "fromfile"}
METHODS = {"read_pickle", "to_pickle", "fromfile"}  # of whatever object
# Others' weights come as torch files; here they are looked at without their code being run.
ALLOWED = {
    ("base/pool.py", "pickle"),  # through the pipes of processes that it starts itself; no file
    ("evaluation/features.py", "torch.load"),  # Inception's weights as they are published
    ("artifacts/state_dicts.py", "torch.load"),  # checkpoints of other code
}


def dangers(source: str) -> set[str]:
    """What in a module could run what a file holds."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] in LOADERS}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module or ""} & LOADERS
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            own = name if "." not in name else name.rpartition(".")[2]
            if own in CALLS and (own == name or own in METHODS):
                found.add(name)
            elif name in ("np.load", "numpy.load", "np.save", "numpy.save"):
                if keywords.get("allow_pickle") != "False":
                    found.add(name)
            elif name == "torch.load":
                found.add(name if keywords.get("weights_only") == "True" else f"{name}, unsafe")
            elif name == "torch.save":
                found.add(name)
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_module_runs_what_it_reads(path: Path) -> None:
    name = path.relative_to(ROOT / "src" / "medxlate").as_posix()
    found = {(name, danger) for danger in dangers(path.read_text(encoding="utf-8"))}
    assert found <= ALLOWED


@pytest.mark.parametrize(
    "source",
    [
        "import pickle", "from joblib import load", "import yaml", "np.load(p)", "eval(text)",
        "np.load(p, allow_pickle=True)", "torch.load(p)", "torch.load(p, weights_only=False)",
        "torch.save(x, p)", "pd.read_pickle(p)", "frame.to_pickle(p)", "import shelve as s",
        "exec(code)", "import marshal",
    ],
)  # fmt: skip
def test_such_code_would_be_seen(source: str) -> None:
    assert dangers(source)


def test_harmless_code_is_not_seen() -> None:
    text = "np.load(p, allow_pickle=False); network.eval(); re.compile(x); torch.compile(n)"
    assert dangers(text) == set()


# ---- names that are given stay text in tables

NAMES = ["a|b", "<script>alert(1)</script>", "a\nb", r"\input{/etc/passwd}", "a & b % c $ d # e_f"]


@pytest.mark.parametrize("name", NAMES)
def test_names_in_tables_are_text(name: str) -> None:
    table = PrintedTable("t", name, (("x", name),), ((name, "1"),), note=name)
    lines = table.markdown().splitlines()
    rows = [line for line in lines if line.startswith("|")]
    cells = [row.replace(r"\|", "").count("|") for row in rows]
    assert cells == [3, 3, 3]
    assert "<script" not in table.markdown().replace(r"\<script", "")
    assert "\\input" not in table.latex().replace("\\textbackslash{}input", "")
    assert not any(line.strip() == "b" for line in table.latex().splitlines())


@pytest.mark.parametrize("name", NAMES)
def test_names_on_a_model_card_are_text(tmp_path: Path, name: str) -> None:
    info = read_model(tiny.write_tiny_model(tmp_path))
    task = info.predictor.head.task.model_copy(update={"name": name, "unit": name})
    head = info.predictor.head.model_copy(update={"task": task})
    info = info.model_copy(update={"predictor": info.predictor.model_copy(update={"head": head})})
    plain = read_model(tmp_path / "model")
    usual, card = model_card(plain), model_card(info)
    assert len(card.splitlines()) == len(usual.splitlines())
    assert "<script" not in card.replace(r"\<script", "")
    assert [line[:2] for line in card.splitlines()] == [line[:2] for line in usual.splitlines()]
