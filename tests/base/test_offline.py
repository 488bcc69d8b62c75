"""No command opens a connection unless it is asked for a download."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch

from medxlate.base.errors import ModelError, UsageError
from medxlate.base.tensors import save_tensors
from medxlate.evaluation.features import find_inception
from medxlate.method.predictor import PredictorNetwork

HERE = Path(__file__).resolve().parents[1]


def go(folder: Path, *before: str) -> subprocess.CompletedProcess[str]:
    """Run ``offline.py`` with a sitecustomize that forbids connections in every process."""
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text(
        "import os, sys\nfrom pathlib import Path\n"
        "import offline\noffline.forbid(Path(os.environ['OFFLINE_LOG']))\n"
    )
    paths = [str(folder / "site"), str(HERE), *sys.path]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "OFFLINE_LOG": str(folder / "attempts"),
        "OMP_NUM_THREADS": "1",
        "HF_HOME": str(folder / "hub"),  # nothing was downloaded before
        "TORCH_HOME": str(folder / "torch"),
    }
    command = [*before, sys.executable, str(HERE / "offline.py"), str(folder)]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


def namespace() -> list[str]:
    """Return the command that runs another without any network device."""
    command = ["unshare", "--user", "--map-root-user", "--net"]
    if shutil.which("unshare") is None:
        pytest.skip("unshare is not installed")
    if subprocess.run([*command, "true"], capture_output=True, check=False).returncode:
        pytest.skip("the system gives no network namespace")
    return command


@pytest.mark.parametrize(
    "isolated",
    [
        pytest.param(False, id="patched"),
        pytest.param(True, id="without a network", marks=pytest.mark.nightly),
    ],
)
def test_the_whole_way_opens_no_connection(tmp_path: Path, isolated: bool) -> None:
    done = go(tmp_path, *(namespace() if isolated else ()))
    assert done.returncode == 0, done.stderr[-3000:]
    attempts = tmp_path / "attempts"
    assert not attempts.exists(), attempts.read_text()
    assert (tmp_path / "out" / "translation.json").is_file()


def test_the_guard_sees_a_connection(tmp_path: Path) -> None:
    """In the process itself, in a thread, and in a process that multiprocessing spawns."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(
        "import os\nfrom pathlib import Path\n"
        "import offline\noffline.forbid(Path(os.environ['OFFLINE_LOG']))\n"
    )
    (tmp_path / "caller.py").write_text(
        "import multiprocessing, threading, urllib.request\n"
        "def call():\n"
        "    try: urllib.request.urlopen('http://127.0.0.1:9/')\n"
        "    except OSError: pass\n"
        "if __name__ == '__main__':\n"
        "    call()\n"
        "    threads = threading.Thread(target=call), "
        "multiprocessing.get_context('spawn').Process(target=call)\n"
        "    for each in threads: each.start()\n"
        "    for each in threads: each.join()\n"
    )
    log = tmp_path / "attempts"
    paths = [str(tmp_path / "site"), str(HERE), *sys.path]
    environment = {
        **os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "OFFLINE_LOG": str(log)
    }  # fmt: skip
    subprocess.run([sys.executable, str(tmp_path / "caller.py")], env=environment, check=True)
    lines = log.read_text().splitlines()
    assert len(lines) == 3
    assert len({line.split()[0] for line in lines}) == 2


def test_pretrained_weights_come_from_the_cache_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    with pytest.raises(ModelError, match=r"not on this machine.*--pretrained FILE"):
        PredictorNetwork(architecture="test_resnet", pretrained="imagenet", offline=True)
    torch.manual_seed(5)
    known = timm.create_model("test_resnet", in_chans=3, num_classes=1000)
    kept = tmp_path / "model.safetensors"
    save_tensors(kept, known.state_dict())
    asked = []

    def cached(hub: str, file: str) -> str:
        asked.append((hub, file))
        return str(kept)

    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", cached)
    network = PredictorNetwork(architecture="test_resnet", pretrained="imagenet", offline=True)
    assert [file for _, file in asked] == ["model.safetensors"]
    wanted = known.state_dict()["layer1.0.conv1.weight"]
    assert torch.equal(network.backbone.state_dict()["layer1.0.conv1.weight"], wanted)


def test_inception_is_not_downloaded_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def called(*_: object, **__: object) -> None:
        pytest.fail("a download was tried")

    monkeypatch.setattr(torch.hub, "download_url_to_file", called)
    with pytest.raises(ModelError, match=r"not at .*--inception"):
        find_inception(None, download=True, offline=True)
    assert find_inception(None, download=False, offline=True) is None
    given = tmp_path / "weights.pth"
    given.write_bytes(b"x")
    assert find_inception(given, download=True, offline=True) == given


def test_a_cluster_is_a_connection(tmp_path: Path) -> None:
    import tiny
    from medxlate.study.begin import Grid
    from medxlate.study.compare import Where, compare

    data = tiny.write_dataset(tmp_path)
    config = tiny.debug_config(data, runtime={"offline": True})
    grid = Grid(methods=("constant",), repeats=2)
    with pytest.raises(UsageError, match="--offline"):
        compare(config, grid, out=tmp_path / "study", where=Where(ray="auto"))
    assert not (tmp_path / "study").exists()
