"""Pretrained weights, from a server on this machine: hashes, and what a failure leaves."""

from __future__ import annotations

import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from typer.testing import CliRunner

from medxlate import pretrained
from medxlate.base.errors import ModelError, UsageError
from medxlate.base.events import Event, Progress
from medxlate.cli.app import app
from medxlate.pretrained import Pretrained, check, fetch

CONTENT = bytes(range(256)) * 12000
HASH = hashlib.sha256(CONTENT).hexdigest()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        if not self.path.startswith("/short"):
            return super().do_GET()
        self.send_response(200)
        self.send_header("Content-Length", "5000")
        self.end_headers()
        self.wfile.write(b"cut")
        return None


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("served")
    (folder / "good.pth").write_bytes(CONTENT)
    handler = partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{served.server_port}"
        served.shutdown()


@pytest.fixture
def registry(server: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Pretrained]:
    rows = {
        "published": ("good.pth", HASH[:8]),
        "unknown": ("good.pth", ""),
        "wrong": ("good.pth", "12345678"),
        "short": ("short", HASH[:8]),
        "gone": ("gone", HASH[:8]),
    }
    made = {
        name: Pretrained(name, f"{name}.bin", f"{server}/{file}", "MIT", digest, "tests")
        for name, (file, digest) in rows.items()
    }
    monkeypatch.setattr(pretrained, "REGISTRY", made)
    return made


def test_weights_come_whole_and_once(tmp_path: Path, registry: dict[str, Pretrained]) -> None:
    heard: list[Event] = []
    first = fetch("published", out=tmp_path, registry=registry, listener=heard.append)
    assert first.path.read_bytes() == CONTENT
    assert (first.sha256, first.checked, first.downloaded) == (HASH, "published", True)
    assert heard[-1] == Progress("published (MiB)", 3, 3)
    again = fetch("published", out=tmp_path, registry=registry, offline=True)
    assert (again.downloaded, again.checked) == (False, "published")
    first.path.write_bytes(CONTENT[:-1])
    with pytest.raises(ModelError, match=HASH[:8]):
        fetch("published", out=tmp_path, registry=registry)


def test_a_wrong_hash_is_not_kept(tmp_path: Path, registry: dict[str, Pretrained]) -> None:
    with pytest.raises(ModelError) as caught:
        fetch("wrong", out=tmp_path, registry=registry)
    assert HASH in caught.value.message
    assert "12345678" in caught.value.message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["short", "gone"])
def test_a_failed_download_leaves_nothing(
    tmp_path: Path, registry: dict[str, Pretrained], name: str
) -> None:
    with pytest.raises(ModelError, match="could not be downloaded"):
        fetch(name, out=tmp_path, registry=registry)
    assert list(tmp_path.iterdir()) == []


def test_a_hash_that_nobody_publishes_is_recorded(
    tmp_path: Path, registry: dict[str, Pretrained]
) -> None:
    first = fetch("unknown", out=tmp_path, registry=registry)
    assert first.checked == "nothing"
    beside = tmp_path / "unknown.bin.sha256"
    assert beside.read_text().split() == [HASH, "unknown.bin"]
    assert check(first.path, registry).checked == "recorded"
    first.path.write_bytes(CONTENT + b"x")
    with pytest.raises(ModelError, match=HASH):
        check(first.path, registry)
    beside.unlink()
    with pytest.raises(ModelError, match=r"unknown\.bin\.sha256 is missing"):
        check(first.path, registry)


def test_offline_opens_no_connection(tmp_path: Path, registry: dict[str, Pretrained]) -> None:
    with pytest.raises(ModelError, match="offline"):
        fetch("published", out=tmp_path, registry=registry, offline=True)
    with pytest.raises(UsageError, match="Unknown weights 'publish'"):
        fetch("publish", out=tmp_path, registry=registry)


def test_the_command(tmp_path: Path, registry: dict[str, Pretrained]) -> None:
    def call(*words: str) -> tuple[int, str]:
        result = CliRunner().invoke(app, ["fetch", *words])
        return result.exit_code, result.stdout

    code, out = call("published", "--out", str(tmp_path), "--json")
    assert code == 0
    assert json.loads(out)["files"][0]["sha256"] == HASH
    code, out = call("--check", str(tmp_path / "published.bin"))
    assert (code, "published one" in out) == (0, True)
    assert call("--list", "--json")[0] == 0
    assert call()[0] == 2
    assert call("published", "--list")[0] == 2
    assert call("wrong", "--out", str(tmp_path))[0] == 1


def test_the_registry_is_what_the_libraries_use() -> None:
    from timm import get_pretrained_cfg
    from torch.hub import get_dir
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    held = pretrained.REGISTRY
    assert held["inception"].url == URL_INCEPTION_V3
    assert held["inception"].file == URL_INCEPTION_V3.rpartition("/")[2]
    assert get_pretrained_cfg("resnet50").hf_hub_id in held["resnet50"].url
    assert pretrained.checkpoints_folder() == Path(get_dir()) / "checkpoints"
