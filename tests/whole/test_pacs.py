"""A derived series through a real archive, by the commands of docs/how-to/pacs-and-viewers.md."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import chdir, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.uid import generate_uid
from typer.testing import CliRunner

import tiny
from medxlate.cli.app import app
from medxlate.images.dicom.write import write_dicom
from medxlate.images.recipes import Recipe

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "how-to" / "pacs-and-viewers.md").read_text(encoding="utf-8")
MR = Recipe(kind="mr", percentiles=(0.5, 99.5), output_range=(0.0, 1000.0))
CT = Recipe(kind="ct", window=(40, 400), unit="HU", output_range=(-160.0, 240.0))


def blocks(kind: str) -> list[str]:
    """The code blocks of the page, in order."""
    return re.findall(rf"^```{kind}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@dataclass
class Archive:
    """A running Orthanc, and the folder of the user who works with it."""

    home: Path
    port: int

    def ask(self, path: str) -> Any:
        with urllib.request.urlopen(f"http://localhost:{self.port}{path}", timeout=10) as answer:
            return json.load(answer)

    def run(self, script: str, **variables: str) -> str:
        """Run a block of the page: its port is ours, its programs are of this environment."""
        programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script.replace("8042", str(self.port))],
            cwd=self.home,
            env={**os.environ, "PATH": programs, **variables},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def send(self, phi: str) -> None:
        """Translate and store by the page's commands; ``phi`` in the place of the page's keep."""
        command = blocks("bash")[2].replace("--phi keep", f"--phi {phi}")
        words = [*shlex.split(command)[1:], "--device", "cpu", "--overwrite"]
        with chdir(self.home):
            done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, done.output
        self.run(blocks("bash")[3])


@contextmanager
def orthanc(home: Path) -> Iterator[Archive]:
    """Run Orthanc with the page's configuration, on a free port, in a folder of its own."""
    config = json.loads(blocks("json")[0])
    for program in ("Orthanc", "curl"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    if not all(Path(each).exists() for each in config["Plugins"]):
        pytest.skip("Orthanc's plugin for DICOMweb (orthanc-dicomweb) is not installed")
    if importlib.util.find_spec("dicomweb_client") is None:
        pytest.skip("dicomweb-client is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        config["HttpPort"] = free.getsockname()[1]
    found = Archive(home, config["HttpPort"])
    (home / "orthanc.json").write_text(json.dumps(config))
    command = blocks("bash")[1].split()
    with (home / "orthanc.log").open("w") as log:
        server = subprocess.Popen(command, cwd=home, stdout=log, stderr=log)
    try:
        wait(found, server)
        yield found
    finally:
        server.terminate()
        server.wait(timeout=30)


def wait(archive: Archive, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            archive.ask("/system")
        except (urllib.error.URLError, OSError):
            log = (archive.home / "orthanc.log").read_text()
            assert server.poll() is None, log
            assert time.monotonic() < deadline, log
            time.sleep(0.1)
        else:
            return


def write_source(folder: Path) -> None:
    """A coronal MR series of 5 slices of [24, 20], its row and column spacing different."""
    shared: dict[str, Any] = {
        "PatientID": "P7",
        "PatientName": "Doe^Jane",
        "StudyInstanceUID": generate_uid(),
        "SeriesInstanceUID": generate_uid(),
        "FrameOfReferenceUID": generate_uid(),
        "SeriesNumber": 3,
        "SeriesDescription": "T1",
        "PatientPosition": "HFS",
        "PixelSpacing": [2, 1.5],
        "SliceThickness": 4,
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
    }
    y, x = np.mgrid[:24, :20]
    for n in range(5):
        pixels = (500 + 400 * np.sin(x / 5 + n) * np.cos(y / 7)).astype(np.uint16)
        place = {"InstanceNumber": n + 1, "ImagePositionPatient": [-15, -20, 4.5 * n]}
        write_dicom(folder / f"{n}.dcm", pixels, modality="MR", attributes=shared | place)


def read(folder: Path) -> Mapping[str, pydicom.Dataset]:
    found = [pydicom.dcmread(path) for path in sorted(folder.glob("*.dcm"))]
    return {str(header.SOPInstanceUID): header for header in found}


def fill(archive: Archive) -> None:
    """Run the page's first commands."""
    model = tiny.write_tiny_model(archive.home, source_recipe=MR, target_recipe=CT)
    (archive.home / "runs").mkdir()
    model.rename(archive.home / "runs" / "latest")
    write_source(archive.home / "mr")
    archive.send("keep")


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    """An archive after the page's first commands; nothing more is to be sent to it."""
    with orthanc(tmp_path_factory.mktemp("archive")) as archive:
        fill(archive)
        yield archive


def first(entry: Mapping[str, Any], tag: str) -> Any:
    return entry[tag]["Value"][0]


def test_what_is_sent_comes_back_equal(filled: Archive) -> None:
    url = f"http://localhost:{filled.port}/dicom-web"
    (found,) = json.loads(filled.run(blocks("bash")[4], PACS=url))
    study, series = first(found, "0020000D"), first(found, "0020000E")
    assert first(found, "0008103E") == "SYNTHETIC ct from mri"
    assert (first(found, "00080060"), first(found, "00200011")) == ("CT", 1003)
    filled.run(blocks("bash")[5], PACS=url, STUDY=study, SERIES=series)
    sent, back = read(filled.home / "fake_ct"), read(filled.home / "back")
    assert len(sent) == 5
    assert sent.keys() == back.keys()
    for uid, header in sent.items():
        again = back[uid]
        assert again == header  # every attribute, the pixels among them
        assert again.file_meta.TransferSyntaxUID == header.file_meta.TransferSyntaxUID
        assert np.array_equal(again.pixel_array, header.pixel_array)
        assert len(np.unique(again.pixel_array)) > 20
        assert (again.StudyInstanceUID, again.SeriesInstanceUID) == (study, series)


def test_the_archive_holds_what_marks_and_places_it(filled: Archive) -> None:
    """By the archive's own view of the metadata, and by the source's headers."""
    source = read(filled.home / "mr")
    (study,) = {str(each.StudyInstanceUID) for each in source.values()}
    root = f"/dicom-web/studies/{study}/series"
    (series,) = [e for e in filled.ask(root) if first(e, "00080060") == "CT"]
    assert len(filled.ask(root)) == 2  # beside the source, for --phi keep
    held = filled.ask(f"{root}/{first(series, '0020000E')}/metadata")
    assert len(held) == 5
    for each in held:
        assert each["00080008"]["Value"][:2] == ["DERIVED", "SECONDARY"]
        assert first(each, "00189004") == "RESEARCH"
        assert first(each, "00082111").startswith("Synthetic image, not acquired")
        assert first(each, "00080070") == "medxlate"
        reference = first(each, "00082112")
        origin = source[first(reference, "00081155")]
        assert each["00200032"]["Value"] == pytest.approx(list(origin.ImagePositionPatient))
        assert each["00200037"]["Value"] == pytest.approx(list(origin.ImageOrientationPatient))
        assert each["00280030"]["Value"] == pytest.approx(list(origin.PixelSpacing))
        assert first(each, "00200052") == origin.FrameOfReferenceUID
        assert (first(each, "00281050"), first(each, "00281051")) == (40, 400)


def test_whom_it_belongs_to_depends_on_phi(tmp_path: Path) -> None:
    """The default makes another patient with the same study UID; remove, a study of its own."""
    with orthanc(tmp_path) as archive:
        fill(archive)
        (study,) = {str(each.StudyInstanceUID) for each in read(tmp_path / "mr").values()}
        studies = {"pseudonymise": (2, 2), "remove": (3, 2)}  # how many, how many of that UID
        for phi, (count, same) in studies.items():
            archive.send(phi)
            held = archive.ask("/dicom-web/studies")
            assert len(held) == count
            assert [first(each, "0020000D") for each in held].count(study) == same
        assert "SYNTHETIC" in {first(each, "00100020") for each in held}
