"""Planted values are found wherever they may lie, and what is clean passes."""

from __future__ import annotations

import base64
import gzip
import json
import os
import pickle
import stat
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import PIL.Image
import PIL.PngImagePlugin
import pytest
import safetensors.numpy
import typer
from typer.testing import CliRunner, Result

from conftest import save_dicom, save_tiff
from medxlate.base.errors import DataError, UsageError
from medxlate.cli.scrub import scrub as command
from medxlate.dataset.identifiers import Identifiers
from medxlate.scrub.needles import Needles
from medxlate.scrub.scrub import Finding, ScrubResult, scrub

NAME = "Zebrowski^Anna Éva"
SHORT = "Q7X1"
NUMBER = "48151"
DATE = "19970322"
UID = "1.3.6.1.4.1.14519.5.2.1.7777.9002.1"
RAW = "/archive/raw/ct"
FILE = "ward3/case-12/00017.dcm"
VALUES = {NAME, SHORT, NUMBER, DATE, UID, RAW, FILE, "TCGA-17-Z034", "AB", "ANONYMOUS", "Test"}
KEY = "5a" * 32


def write_identifiers(data: Path, values: set[str], modality: str = "ct") -> None:
    folder = data / modality
    folder.mkdir(parents=True)
    (folder / "modality.json").write_text("{}")
    Identifiers(frozenset(values)).save(folder)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A clean run, as training writes it, beside the dataset it was made from."""
    data = tmp_path / "data"
    write_identifiers(data, VALUES)
    (data / "pseudonym.key").write_text(KEY)
    run = tmp_path / "runs" / "mri-to-ct-001"
    (run / "model").mkdir(parents=True)
    (run / "checkpoints" / "step-048151").mkdir(parents=True)
    (run / "samples").mkdir()
    write = {
        "config.json": {"data": {"folder": str(data), "sources": ["mri"]}, "seed": 48151},
        "split.json": {"policy": "patient", "patients": {"test": ["pq7x1a9b2c3d4e5f", "p48151"]}},
        "model/model.json": {"schema_version": 1, "sha256": "9f48151b" * 8, "step": 48151},
    }
    for name, content in write.items():
        (run / name).write_text(json.dumps(content, indent=2))
    lines = [
        {"event": "step", "step": 48151, "loss": 0.48151, "rate": 148151.0},
        {"event": "step", "step": 9, "loss": 48151.25, "figure": 1.19970322, "large": 4815199},
    ]
    (run / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    (run / "model" / "MODEL_CARD.md").write_text(
        "# Card\n\nTrained on ct. Anonymous, for a test.\n"
    )
    tensors = {"layer.weight": np.zeros((48151, 2), np.float32)}
    safetensors.numpy.save_file(tensors, run / "model" / "networks.safetensors")
    save_png(run / "samples" / "mri-epoch-0005.png", "a note")
    pd.DataFrame({"step": [1], "name": ["ct"]}).to_parquet(run / "table.parquet")
    return run


def save_png(path: Path, note: str, key: str = "note") -> None:
    info = PIL.PngImagePlugin.PngInfo()
    info.add_text(key, note)
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    PIL.Image.fromarray(pixels).save(path, pnginfo=info)


def kinds(result: ScrubResult) -> set[str]:
    return {finding.kind for finding in result.found}


def test_a_clean_run_passes(run: Path) -> None:
    result = scrub(run)
    assert result.found == []
    assert result.files == 8
    assert (result.values, result.too_short, result.generic) == (9, 0, 2)


def test_a_model_folder_and_the_pointer_to_the_newest_run_know_their_dataset(run: Path) -> None:
    assert scrub(run / "model").found == []
    (run / "model" / "note.txt").write_text(SHORT)
    found = [Finding("note.txt", "line 1", "an ID or name")]
    assert scrub(run / "model").found == found
    (run.parent / "latest").write_text(run.name + "\n")
    assert [each.file for each in scrub(run.parent / "latest").found] == ["model/note.txt"]


TEXTS = {
    "as it is": (f"patient {SHORT} was", "an ID or name"),
    "lower case": (f"patient={SHORT.lower()}", "an ID or name"),
    "in a file's name": (f"cases/{SHORT}_1.png", "an ID or name"),
    "digits": (f'"id": "{NUMBER}"', "an ID or name"),
    "digits as a number": (f'"id": {NUMBER},', "an ID or name"),
    "digits at a sentence's end": (f"It is {NUMBER}.", "an ID or name"),
    "name": (NAME, "an ID or name"),
    "name with spaces": ("Zebrowski Anna Éva", "an ID or name"),
    "name inside a word": ("xZEBROWSKI_ANNA_ÉVAx", "an ID or name"),
    "name, escaped": (json.dumps({"n": "Zebrowski^Anna Éva"}), "an ID or name"),
    "name, decomposed": ("Zebrowski Anna E\u0301va", "an ID or name"),
    "name in HTML": ("<p>Zebrowski Anna &Eacute;va</p>", "an ID or name"),
    "name in an address": ("Zebrowski%20Anna%20%C3%89va", "an ID or name"),
    "other separators": ("tcga 17 z034", "an ID or name"),
    "date": ("19970322", "a date"),
    "date with dashes": ("on 1997-03-22", "a date"),
    "date with dots": ("am 22.03.1997", "a date"),
    "date in a name": ("TCGA_19970322_1.tif", "a date"),
    "UID": (f"<{UID}>", "a UID"),
    "UID in a file's name": (f"CT.{UID}.dcm", "a UID"),
    "UID with an addition": (f"{UID}.25.1", "a UID"),
    "path": (f"from {FILE}", "a path"),
    "path below the raw folder": (f"{RAW}/x.dcm", "a path"),
    "path with backslashes": (r"ward3\case-12\00017.dcm", "a path"),
    "path with backslashes, escaped": (json.dumps(r"ward3\case-12\00017.dcm"), "a path"),
    "after an escaped line break": (json.dumps(f"a\n{SHORT}\nb"), "an ID or name"),
    "the key": (f"key {KEY}", "the key of the pseudonyms"),
}


@pytest.mark.parametrize(
    "name", ["notes.md", "report.html", "values.csv", "config.toml", "x.jsonl"]
)
@pytest.mark.parametrize("case", TEXTS)
def test_a_value_in_a_text_is_found_with_its_line(run: Path, case: str, name: str) -> None:
    text, kind = TEXTS[case]
    (run / "model" / name).write_text(f"first\nsecond\n{text}\nlast\n", encoding="utf-8")
    assert scrub(run).found == [Finding(f"model/{name}", "line 3", kind)]


@pytest.mark.parametrize(
    "text",
    [
        "0.48151",
        "148151",
        "48151.5",
        "a48151",
        "Q7X12",
        "pq7x1",
        "1.19970322",
        "219970322",
        f"1{UID}",
        f"{UID}2",
        "/archive/raw/ctx",
        "anonymous, the test",
        "1.2.840.10008.1.2.1",
        "ab",
    ],
)
def test_what_only_resembles_a_value_is_no_finding(run: Path, text: str) -> None:
    (run / "note.txt").write_text(f"x {text} x\n")
    assert scrub(run).found == []


def plant_png(path: Path) -> None:
    save_png(path.with_suffix(".png"), json.dumps({"id": SHORT}), key="medxlate")


def plant_packed_png(path: Path) -> None:
    info = PIL.PngImagePlugin.PngInfo()
    info.add_text("note", SHORT, zip=True)
    info.add_itxt("other", NAME, zip=True)
    PIL.Image.new("L", (4, 4)).save(path.with_suffix(".png"), pnginfo=info)


def plant_safetensors(path: Path) -> None:
    target = path.with_suffix(".safetensors")
    safetensors.numpy.save_file({"w": np.zeros(3)}, target, metadata={"patient": SHORT})


def plant_tensor_name(path: Path) -> None:
    safetensors.numpy.save_file({f"of.{SHORT}": np.zeros(3)}, path.with_suffix(".safetensors"))


def plant_parquet(path: Path) -> None:
    frame = pd.DataFrame({"a": [1.0, 2.0], "file": ["x", f"{SHORT}.png"]})
    frame.to_parquet(path.with_suffix(".parquet"))


def plant_parquet_number(path: Path) -> None:
    pd.DataFrame({"id": [1, int(NUMBER)]}).to_parquet(path.with_suffix(".parquet"))


def plant_dicom(path: Path) -> None:
    save_dicom(path.with_suffix(".dcm"), np.zeros((8, 8), np.int16), PatientID=SHORT)


def plant_dicom_uid(path: Path) -> None:
    save_dicom(path.with_suffix(".dcm"), np.zeros((8, 8), np.int16), StudyInstanceUID=UID)


def plant_nifti(path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    image = nibabel.Nifti1Image(np.zeros((3, 3, 3), np.int16), np.eye(4))
    image.header["descrip"] = SHORT
    nibabel.save(image, path.with_suffix(".nii.gz"))


def plant_tiff(path: Path) -> None:
    save_tiff(
        path.with_suffix(".tif"),
        np.zeros((8, 8), np.uint16),
        description=f"of {SHORT}",
        metadata=None,
    )


def plant_jpeg(path: Path) -> None:
    PIL.Image.new("L", (8, 8)).save(path.with_suffix(".jpg"), comment=f"of {SHORT}")


def plant_zip(path: Path) -> None:
    with zipfile.ZipFile(path.with_suffix(".npz"), "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("notes.txt", f"of {SHORT}")


def plant_gzip(path: Path) -> None:
    path.with_suffix(".gz").write_bytes(gzip.compress(f"of {SHORT}".encode()))


def plant_embedded(path: Path) -> None:
    plant_png(path)
    image = base64.b64encode(path.with_suffix(".png").read_bytes()).decode()
    path.with_suffix(".png").unlink()
    path.with_suffix(".html").write_text(f'<img src="data:image/png;base64,{image}">')


def plant_binary(path: Path) -> None:
    path.write_bytes(np.random.default_rng(0).bytes(9000) + b"Zebrowski Anna \xc3\x89va\0")


def plant_latin(path: Path) -> None:
    path.write_bytes(f"Éva, {SHORT}".encode("latin-1"))


def plant_name(path: Path) -> None:
    path.with_name(f"epoch-1-{SHORT}.png").write_bytes(b"")


def plant_folder(path: Path) -> None:
    path.with_name(f"of {SHORT}").mkdir()


def plant_link(path: Path) -> None:
    path.symlink_to(f"/nowhere/{SHORT}/x")


PLANTS = [value for name, value in list(globals().items()) if name.startswith("plant_")]


@pytest.mark.parametrize("plant", PLANTS)
def test_a_value_in_any_kind_of_file_is_found(run: Path, plant: Callable[[Path], None]) -> None:
    plant(run / "model" / "planted")
    result = scrub(run)
    kinds_found = kinds(result) - ({"could not be searched"} if plant is plant_binary else set())
    assert kinds_found in ({"an ID or name"}, {"a UID"})
    assert {each.file.split("/")[0] for each in result.found} <= {
        *("model", "file 1: model", "folder 1: model")
    }
    told = repr(result).lower()
    for value in (SHORT, "zebrowski", NUMBER, UID):
        assert value.lower() not in told


def test_tensors_and_pixels_are_no_text(run: Path) -> None:
    """The bytes of an id as numbers: only what is long enough to be no chance is one."""
    words = np.frombuffer(b" Q7X1\0\0\0" * 64, np.uint8)
    safetensors.numpy.save_file({"w": words}, run / "model" / "w.safetensors")
    np.save(run / "w.npy", words)
    assert scrub(run).found == []


def test_links_are_not_followed(run: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "note.txt").write_text(SHORT)
    (run / "link").symlink_to(tmp_path / "outside")
    (run / "loop").symlink_to(run)
    (run / "note").symlink_to(tmp_path / "outside" / "note.txt")
    assert scrub(run).found == []


def test_a_value_across_two_reads_is_found(run: Path) -> None:
    size = 4 * 2**20
    (run / "long.txt").write_text("\n" * (size - 2) + SHORT + "\n" + "x" * 9)
    assert scrub(run).found == [Finding("long.txt", f"line {size - 1}", "an ID or name")]


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("w.safetensors", b"\xff" * 64, "damaged"),
        ("t.parquet", b"PAR1 damaged", "damaged"),
        ("a.zip", b"PK\x03\x04 damaged", "damaged"),
        ("a.nii.gz", b"\x1f\x8b\x08 damaged", "damaged"),
        ("a.xz", b"\xfd7zXZ\x00 packed", "damaged"),
        ("a.7z", b"7z\xbc\xaf\x27\x1c", "packed as 7z"),
        ("a.zst", b"\x28\xb5\x2f\xfd", "packed as Zstandard"),
        ("a.pdf", b"%PDF-1.7", "packed as PDF"),
        ("a.bin", bytes(range(256)), "of an unknown kind"),
        ("a.pkl", pickle.dumps({"of": [1, 2]}), "of an unknown kind"),
    ],
)
def test_what_cannot_be_looked_into_is_told(run: Path, name: str, content: bytes, why: str) -> None:
    (run / name).write_bytes(content)
    (found,) = scrub(run).found
    assert (found.file, found.kind) == (name, "could not be searched")
    assert found.where.startswith(f"content: {why}")


def test_the_datasets_own_folder_inside_the_raw_folder_is_no_finding(run: Path) -> None:
    data = run.parent.parent / "data"
    raw = data.parent
    Identifiers(frozenset({str(raw.resolve())})).save(data / "ct")
    assert scrub(run).found == []
    (run / "note.txt").write_text(f"read {raw.resolve()}/x.png")
    assert kinds(scrub(run)) == {"a path"}


def test_all_modalities_of_the_dataset_count(run: Path) -> None:
    write_identifiers(run.parent.parent / "data", {"W9Y2"}, modality="mri")
    (run / "note.txt").write_text("W9Y2")
    assert kinds(scrub(run)) == {"an ID or name"}


def test_without_a_list_of_values_nothing_is_looked_for(run: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no prepared modality"):
        scrub(run, data=tmp_path)
    (tmp_path / "data" / "ct" / "identifiers.json").unlink()
    with pytest.raises(DataError, match=r"identifiers\.json does not exist.*--modality ct"):
        scrub(run)
    with pytest.raises(UsageError, match="Give it with --data"):
        scrub(tmp_path)
    with pytest.raises(UsageError, match="does not exist"):
        scrub(tmp_path / "no")


@pytest.mark.parametrize("content", ["{", "[]", '{"version": 9, "values": []}', '{"version": 1}'])
def test_a_damaged_list_is_an_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "identifiers.json").write_text(content)
    with pytest.raises(DataError, match=r"identifiers\.json"):
        Identifiers.load(tmp_path)


def test_the_list_is_private_sorted_and_gives_the_values_back(tmp_path: Path) -> None:
    values = frozenset(VALUES | {"\udcff", "日本"})
    old = os.umask(0)
    try:
        Identifiers(values).save(tmp_path)
    finally:
        os.umask(old)
    path = tmp_path / "identifiers.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert Identifiers.load(tmp_path).values == values
    first = path.read_bytes()
    Identifiers(frozenset(sorted(values, reverse=True))).save(tmp_path)
    assert path.read_bytes() == first


def test_two_hundred_thousand_values_are_quick() -> None:
    random = np.random.default_rng(0)
    numbers = random.integers(10**11, 10**12, 200_000).tolist()
    values = [f"1.3.6.1.4.1.14519.5.2.1.{n}" for n in numbers[:100_000]]
    values += [f"TCGA_{n}/TCGA_{n}_{n % 40}.tif" for n in numbers[100_000:160_000]]
    values += [f"{n}" for n in numbers[160_000:]]
    text = "\n".join(f'{{"step": {i}, "loss": {i / 7}, "of": "TCGA_x"}}' for i in range(40_000))
    began = time.process_time()
    needles = Needles(values)
    assert list(needles.find(text)) == []
    assert {kind for _, kind in needles.find(f"{text} {values[5]} {values[-1]}")} == {
        "a UID",
        "an ID or name",
    }
    assert time.process_time() - began < 15  # about 3 s on one core


def invoke(*words: object) -> Result:
    app = typer.Typer()
    app.command()(command)
    return CliRunner().invoke(app, [str(word) for word in words])


def call(*words: object) -> tuple[int, str]:
    result = invoke(*words)
    return result.exit_code, result.output


def test_the_command_says_what_it_looked_for(run: Path) -> None:
    code, said = call("--check", run)
    assert code == 0
    assert "8 files hold none of 9 identifying values" in said
    assert "0 too short and 2 that name nobody" in said


def test_the_command_fails_on_a_planted_value_and_does_not_repeat_it(run: Path) -> None:
    (run / f"{SHORT}.txt").write_text(NAME)
    code, said = call("--check", run)
    assert code == 1
    assert "1 of 9 files" in said
    assert "file 1: ***.txt: its name: an ID or name" in said
    assert "file 1: ***.txt: line 1: an ID or name" in said
    assert SHORT not in said
    result = invoke("--check", run, "--json")
    said = result.stdout
    assert result.exit_code == 1
    assert len(json.loads(said)["found"]) == 2
    assert SHORT not in said


def test_hidden_names_stay_apart(run: Path) -> None:
    for number in range(4):
        (run / f"{SHORT}_{number}.txt").write_text(NAME if number == 2 else "")
    (run / "z-clean.txt").write_text(f"first\n{SHORT}\n" + "x\n" * 8 + SHORT)
    (run / f"z {SHORT}").mkdir()
    (run / f"z {SHORT}" / f"a.{SHORT}").write_text("")
    kind = "an ID or name"
    assert scrub(run).found == [
        Finding("file 1: ***.txt", "its name", kind),
        Finding("file 2: ***.txt", "its name", kind),
        Finding("file 3: ***.txt", "its name", kind),
        Finding("file 3: ***.txt", "line 1", kind),
        Finding("file 4: ***.txt", "its name", kind),
        Finding("folder 5: ***", "its name", kind),
        Finding("file 6: ***/***", "its name", kind),
        Finding("z-clean.txt", "line 2", kind),
        Finding("z-clean.txt", "line 11", kind),
    ]
    code, said = call("--check", run)
    assert code == 1
    assert "7 of 14 files" in said


def test_the_command_only_checks(run: Path) -> None:
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert call(run)[0] == call("--check", run)[0]  # asked for once, and still understood
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    assert call("--check", run, "--data", run / "no")[0] == 1
    assert call("--check", run / "no")[0] == 2
