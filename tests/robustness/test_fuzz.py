"""The short form of ``python tests/fuzz``, and what longer runs found, each as its own case."""

from __future__ import annotations

import json
import os
import resource
import shutil
import struct
import sys
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
import torch

import tiny
from conftest import save_raster
from fuzz import runner
from fuzz.seeds import write_corpus
from fuzz.targets import KINDS, Place, clean
from fuzz.worker import chosen, corpus_of
from medxlate.artifacts.folder import load_generator, load_predictor
from medxlate.artifacts.info import read_model
from medxlate.base.errors import DataError, ImageError, MedxlateError, ModelError
from medxlate.base.records import read_json, read_record
from medxlate.base.tensors import load_tensors, save_tensors
from medxlate.config import resolve
from medxlate.dataset import job
from medxlate.dataset.arrays import open_array
from medxlate.dataset.index import Dataset
from medxlate.dataset.label_table import read_table
from medxlate.dataset.options import PrepareOptions
from medxlate.dataset.prepare import prepare
from medxlate.images.raster import read_raster
from medxlate.study.study import Study

pytestmark = [
    pytest.mark.alone,
    pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and rlimits"),
]
COUNT = 600
GIBIBYTE = 1 << 30


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("corpus")
    write_corpus(root)
    return root


@pytest.fixture(scope="module")
def data(corpus: Path) -> Path:
    return corpus / "home" / "data"


@contextmanager
def within(seconds: float = 5, memory: int = GIBIBYTE) -> Iterator[None]:
    """Fail where the block takes longer, and let no more memory be had."""
    usual = resource.getrlimit(resource.RLIMIT_DATA)
    status = Path("/proc/self/status").read_text()
    (now,) = (int(line.split()[1]) for line in status.splitlines() if line.startswith("VmData"))
    resource.setrlimit(resource.RLIMIT_DATA, (now * 1024 + memory, usual[1]))
    begun = time.monotonic()
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, usual)
    assert time.monotonic() - begun < seconds


def test_damaged_files_are_read_or_refused(corpus: Path) -> None:
    """Within 5 s and 1 GiB each; seed, kind and number of a failure make its input again."""
    report = runner.fuzz(corpus, count=COUNT, seed=0)
    assert sum(report.counts.values()) == COUNT
    assert not report.failures, "\n".join(
        f"python tests/fuzz --kind {f.kind} --first {f.number} --count 1 --seed 0\n{f.why}"
        for f in report.failures
    )
    refused = {kind for (kind, outcome) in report.counts if outcome == "refused"}
    assert refused == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_the_sound_files_are_read(corpus: Path, tmp_path: Path, kind: str) -> None:
    """Or the harness would only measure how a file is refused at its first byte."""
    shutil.copytree(corpus / "home", tmp_path / "home")
    for file in corpus_of(kind, corpus):
        for number in range(8) if kind == "nifti" else range(2):
            place = Place(tmp_path / "home", tmp_path / "inbox", file.name, number)
            clean(place)
            KINDS[kind].use(place, file.read_bytes())


def test_an_input_follows_from_seed_kind_and_number(corpus: Path) -> None:
    for kind in KINDS:
        assert chosen(kind, 5, 1, corpus) == chosen(kind, 5, 1, corpus)
    some = {chosen("dicom", 9 * n, seed, corpus)[1] for n in range(4) for seed in range(4)}
    assert len(some) > 12


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("os.abort()", "the process ended"),
        ("time.sleep(60)", "hangs"),
        ("bytearray(3 << 30)", "MemoryError"),
    ],
)
def test_the_harness_sees_crashes_hangs_and_memory(
    corpus: Path, tmp_path: Path, body: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A use that misbehaves at one input is told with that input."""
    (tmp_path / "misbehaving.py").write_text(
        "import os, time, numpy as np\n"
        "from fuzz.targets import Kind\n"
        "def use(place, content):\n"
        f"    if place.number == 1: {body}\n"
        "KINDS = {'toml': Kind('toml', use)}\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    monkeypatch.setattr(runner, "HANGS", 2.0)
    worker = runner.Worker(corpus, "misbehaving")
    try:
        outcomes = [worker.ask("toml", number, 0) for number in (0, 1)]
    finally:
        worker.close()
    assert [found.outcome for found in outcomes] == ["read", "failed"]
    assert why in outcomes[1].why


# ---- what longer runs found, and what they are too blind to find


def in_sheet(path: Path, change: Callable[[bytes], bytes]) -> Path:
    """Write an XLSX file of which the sheet's XML is changed."""
    pd.DataFrame({"a": [1, 2], "b": ["x", "y"]}).to_excel(path, index=False)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    sheet = "xl/worksheets/sheet1.xml"
    members[sheet] = change(members[sheet])
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def far(sheet: bytes) -> bytes:
    return sheet.replace(b'r="B3"', b"r='XFD1048576'").replace(b'<row r="3"', b"<row r='1048576'")


def laughs(sheet: bytes) -> bytes:
    """Entities that stand for each other, ten times ten times ten."""
    entities = [f'<!ENTITY {b} "{f"&{a};" * 20}">' for a, b in pairwise("abcdefghij")]
    doctype = f'<!DOCTYPE l [<!ENTITY a "{"x" * 999}">{"".join(entities)}]>'.encode()
    return doctype + sheet.split(b"?>", 1)[-1].replace(b"<v>", b"<v>&j;", 1)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (far, "at most 5000000"),
        (lambda sheet: sheet + b" " * (1 << 27), "at most 64 MiB"),
        (laughs, "amplification|entit"),
    ],
)
def test_spreadsheet_bombs(tmp_path: Path, change: Callable[[bytes], bytes], why: str) -> None:
    path = in_sheet(tmp_path / "a.xlsx", change)
    with within(), pytest.raises(DataError, match=why):
        read_table(path)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"," * 1_000_000 + b"\n" + b"a\n" * 1_000_000, "at most 5000000"),
        (b'a,b\n"' + b"x" * 20_000_000, "cannot be read"),
        (b"a,b\n1," + b"x" * 5000 + b"\n", "more than 4096 characters"),
        (b'"' * 16_000 + b"\n" + b'" ' * 8000, "more than 4096"),
    ],
)
def test_table_bombs(tmp_path: Path, content: bytes, why: str) -> None:
    (tmp_path / "a.csv").write_bytes(content)
    with within(), pytest.raises(DataError, match=why):
        read_table(tmp_path / "a.csv")


def test_predictions_with_more_cells_than_columns(corpus: Path, tmp_path: Path) -> None:
    """Pandas makes an index of 20,000 levels of them, for a minute."""
    content = (corpus / "seeds" / "predictions" / "a.csv").read_text().splitlines()
    content[3] += "," * 20_000
    place = Place(corpus / "home", tmp_path / "inbox", "a.csv", 0)
    clean(place)
    with within(), pytest.raises(DataError, match="line 4 has more cells"):
        KINDS["predictions"].use(place, "\n".join(content).encode())


def test_a_large_table_below_the_limits_is_read(tmp_path: Path) -> None:
    text = "file,age\n" + "".join(f"{n}.png,{n}\n" for n in range(20_000))
    (tmp_path / "a.csv").write_text(text)
    assert len(read_table(tmp_path / "a.csv").rows) == 20_000


def test_a_deflated_strip_that_grows(tmp_path: Path) -> None:
    pixels = np.arange(32, dtype=np.uint16)[:, None, None] + np.zeros((32, 32, 3), np.uint16)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, pixels, photometric="rgb", compression="zlib")
    assert read_raster(path).height == 32
    with tifffile.TiffFile(path) as tiff:
        places = [tiff.pages.first.tags[tag].valueoffset for tag in (273, 279)]
    content = bytearray(path.read_bytes())
    packer = zlib.compressobj(9)
    bomb = b"".join(packer.compress(bytes(1 << 20)) for _ in range(400)) + packer.flush()
    for place, value in zip(places, (len(content), len(bomb)), strict=True):
        struct.pack_into("<I", content, place, value)
    path.write_bytes(bytes(content) + bomb)
    with (
        within(memory=200 << 20),
        pytest.raises(ImageError, match="larger than its header says"),
    ):
        read_raster(path)


def test_tiles_far_beyond_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.eye(32, dtype=np.float32), tile=(16, 16))
    with tifffile.TiffFile(path) as tiff:
        place = tiff.pages.first.tags[324].valueoffset
    content = bytearray(path.read_bytes())
    struct.pack_into("<I", content, place + 4, 2**32 - 16)
    path.write_bytes(content)
    with within(), pytest.raises(ImageError, match="beyond the end"):
        read_raster(path)


def test_a_small_png_that_claims_many_pixels(tmp_path: Path) -> None:
    path = save_raster(tmp_path / "a.png", np.arange(1024, dtype=np.uint16).reshape(32, 32))
    content = bytearray(path.read_bytes())
    struct.pack_into(">II", content, 16, 9999, 9999)
    struct.pack_into(">I", content, 29, zlib.crc32(content[12:29]))
    path.write_bytes(content)
    with within(), pytest.raises(ImageError, match="claims more pixels"):
        read_raster(path)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[" * 100_000, "nested too deeply"),
        ("9" * 5000, "digits"),
        ('{"a": NaN}', "NaN is not a number"),
        ('{"a": Infinity}', "Infinity is not a number"),
        ("\ufeff{}", "BOM"),
    ],
)
def test_json_of_odd_shapes(tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with within(), pytest.raises(DataError, match=why):
        read_json(tmp_path / "a.json", error=DataError)


@pytest.mark.parametrize("text", ["[1]", "1", "null", '"a"', "[]"])
def test_json_that_is_no_object(corpus: Path, tmp_path: Path, text: str) -> None:
    shutil.copytree(corpus / "home", tmp_path / "home")
    place = Place(tmp_path / "home", tmp_path / "inbox", "a.json", 0)
    clean(place)
    kinds = [name for name, kind in KINDS.items() if kind.form == "json"]
    assert len(kinds) > 8
    for kind in kinds:
        with pytest.raises(MedxlateError):
            KINDS[kind].use(place, text.encode())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("skipped", {"a": 1}),
        ("notes", [1]),
        ("left_out", {"a": "b"}),
        ("duplicates", [{"kind": 3}]),
        ("files", "many"),
    ],
)
def test_a_record_of_prepare_with_other_values(
    corpus: Path, tmp_path: Path, key: str, value: object
) -> None:
    shutil.copytree(corpus / "home", tmp_path / "home")
    place = Place(tmp_path / "home", tmp_path / "inbox", "prepare.json", 0)
    clean(place)
    values = json.loads((corpus / "seeds" / "prepare" / "prepare.json").read_text())
    KINDS["prepare"].use(place, json.dumps(values).encode())
    with pytest.raises(DataError, match=r"prepare\.json is damaged"):
        KINDS["prepare"].use(place, json.dumps(values | {key: value}).encode())


def test_a_part_that_is_damaged_is_named(tmp_path: Path) -> None:
    """Of a ``prepare`` that was stopped: its parts are read by the next one."""
    tiny.write_raw(tmp_path / "raw")
    options = PrepareOptions(label="regex:(.)", patient="file", task="classification")
    known = {"modality": "ct", "data": tmp_path / "data", "options": options, "size": tiny.SIZE}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job.Job, "_write", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            prepare(tmp_path / "raw" / "ct", **known)
    (journal,) = (tmp_path / "data" / ".ct.parts").glob("journal-*.jsonl")
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    lines[0]["limits"] = [1]
    journal.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(
        DataError, match=r"The journal in .*\.ct\.parts is damaged.*Delete the folder"
    ):
        prepare(tmp_path / "raw" / "ct", **known)


def test_records_are_small(tmp_path: Path) -> None:
    path = tmp_path / "study.json"
    with path.open("wb") as stream:
        stream.truncate(17 << 20)
    with within(), pytest.raises(DataError, match="larger than 16 MiB"):
        read_record(path, Study, version=1, error=DataError, hint="", again="")


@pytest.mark.parametrize(
    "text",
    [
        ".".join("a" * 50_000) + " = 1",
        "[" + ".".join("a" * 5000) + "]",
        "a = " + "[" * 50_000,
        "a = " + "{a=" * 5000,
        "method = 0x" + "f" * 5000,
        "split.seed = " + "9" * 5000,
    ],
)
def test_toml_of_odd_shapes(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.toml").write_text(text)
    with within(), pytest.raises(MedxlateError) as caught:
        resolve(file=tmp_path / "a.toml")
    assert len(str(caught.value)) < 3000


@pytest.mark.parametrize(
    "head", [b"{'descr': (", b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"]
)
def test_arrays_whose_header_is_odd(tmp_path: Path, head: bytes) -> None:
    text = head.ljust(117) + b"\n"
    path = tmp_path / "a.npy"
    path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + bytes(99))
    with pytest.raises(ValueError, match=r"damaged or truncated"):
        open_array(path)


def test_an_array_that_claims_more_than_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.zeros((2, 8, 8), np.uint8))
    path.write_bytes(path.read_bytes().replace(b"(2, 8, 8)", b"(9, 8, 8)"))
    with pytest.raises(ValueError, match="truncated"):
        open_array(path)


@pytest.mark.parametrize(
    ("column", "value", "why"),
    [
        ("shard", 3, "a shard that does not exist"),
        ("row", -1, "a slice that does not exist"),
        ("row", 10**6, "a slice that does not exist"),
        ("label", float("inf"), "labels"),
        ("perceptual_hash", "zz", "perceptual_hash"),
        ("patient", None, "gaps"),
    ],
)
def test_tables_that_name_what_is_not_there(
    corpus: Path, tmp_path: Path, column: str, value: object, why: str
) -> None:
    data = tiny.write_dataset(tmp_path)
    path = data / "ct" / "slices.parquet"
    frame = pd.read_parquet(path)
    frame[column] = [value, *frame[column].tolist()[1:]]
    frame.to_parquet(path, index=False)
    with pytest.raises(DataError, match=why):
        Dataset(data).modality("ct")


def test_a_table_of_another_length_than_the_shards(tmp_path: Path) -> None:
    """Seen in the file's metadata: a few bytes of run lengths may stand for any number of rows."""
    data = tiny.write_dataset(tmp_path)
    path = data / "ct" / "slices.parquet"
    frame = pd.read_parquet(path)
    many = np.zeros(20_000_000, np.int64)
    pd.DataFrame(dict.fromkeys(frame.columns[1:3], many)).to_parquet(path, index=False)
    del many
    with within(memory=100 << 20), pytest.raises(DataError, match="differ in length"):
        Dataset(data).modality("ct")


def test_a_table_that_claims_to_unpack_to_much(tmp_path: Path) -> None:
    data = tiny.write_dataset(tmp_path)
    path = data / "ct" / "slices.parquet"
    frame = pd.read_parquet(path)
    frame["file"] = "x" * (32 << 20)
    frame.to_parquet(path, index=False, compression="zstd")
    assert path.stat().st_size < 30_000
    with within(memory=100 << 20), pytest.raises(DataError, match="is larger than its slices need"):
        Dataset(data).modality("ct")


def load(model: Path) -> None:
    info = read_model(model)
    load_generator(model, info, None)
    load_predictor(model, info)


@pytest.mark.parametrize(
    ("part", "changes"),
    [
        ("translators", {"width": 1024, "blocks": 64}),
        ("translators", {"width": -8}),
        ("translators", {"width": 2**40}),
        ("translators", {"blocks": 2**31}),
        ("predictor", {"architecture": "vit_giant_patch14_dinov2"}),
    ],
)
def test_networks_larger_than_their_weights(
    tmp_path: Path, part: str, changes: dict[str, object]
) -> None:
    model = tiny.write_tiny_model(tmp_path)
    values = json.loads((model / "model.json").read_text())
    values[part] = (
        values[part] | changes if part == "predictor" else {"mri": values[part]["mri"] | changes}
    )
    (model / "model.json").write_text(json.dumps(values))
    with within(), pytest.raises(ModelError, match=r"the file is too small|is damaged"):
        load(model)


def test_safetensors_that_claim_much(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_tensors(path, {"a": torch.zeros(4)})
    content = path.read_bytes()
    for claim in (2**40, 2**63, 10**8 + 1):
        path.write_bytes(struct.pack("<Q", claim) + content[8:])
        with within(), pytest.raises(ModelError, match="safetensors"):
            load_tensors(path)


def test_messages_stay_short() -> None:
    text = str(DataError("x" * 10_000 + " the end.", "A hint."))
    assert len(text) < 2100
    assert text.endswith(" the end. A hint.")
