"""`hf://OWNER/NAME@REVISION`, on a hub of our own: what is downloaded, when, what is recorded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import hubs
import tiny
from medxlate import Predictor, Translator, export_hub
from medxlate.artifacts.hub import located, origin_of
from medxlate.base.errors import ModelError, UsageError
from medxlate.base.events import Event, Stage, Warned
from medxlate.cli.app import app
from medxlate.inference.translate import translate

NAME = "lab/mri-to-ct"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_tiny_model(tmp_path_factory.mktemp("model"), target_recipe=tiny.AS_IS)


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scans")
    tiny.save(folder / "a.png", tiny.noise(32, 32, seed=1))
    return folder


@pytest.fixture
def hub(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[hubs.Hub]:
    """A hub with the model, and with files that nobody should ask for."""
    with hubs.running() as hub:
        hubs.connect(monkeypatch, hub, tmp_path / "home")
        out = tmp_path / "exported"
        export_hub(model, out=out, license_="mit")
        files = {path.name: path.read_bytes() for path in out.iterdir()}
        repo = hub.repos[NAME] = hubs.Repo(private=False)
        repo.commit({**files, "pickle.pt": b"evil", "setup.py": b"evil"})
        yield hub


def main_of(hub: hubs.Hub) -> str:
    return hub.repos[NAME].main


def test_it_translates_as_the_folder_does_and_records_the_commit(
    hub: hubs.Hub, model: Path, scans: Path, tmp_path: Path
) -> None:
    events: list[Event] = []
    translate(
        scans, out=tmp_path / "one", model=f"hf://{NAME}", device="cpu", listener=events.append
    )
    translate(scans, out=tmp_path / "two", model=model, device="cpu")
    pinned = f"hf://{NAME}@{main_of(hub)}"
    one, two = tmp_path / "one", tmp_path / "two"
    assert json.loads((one / "translation.json").read_text())["model"] == pinned
    assert "model" not in json.loads((two / "translation.json").read_text())
    (picture,) = one.rglob("*.png")
    assert picture.read_bytes() == (two / picture.relative_to(one)).read_bytes()
    (said,) = [each.text for each in events if isinstance(each, Warned)]
    assert pinned in said


def test_only_json_and_safetensors_that_it_names_are_asked_for(hub: hubs.Hub) -> None:
    folder = located(Path(f"hf://{NAME}@main"))
    asked = {path.rpartition("/")[2] for _, path, _ in hub.asked}
    assert asked == {"model.json", "model.safetensors", "predictor.safetensors"}
    assert {path.name for path in folder.iterdir()} == asked | {"hub.json"}
    assert not any(path.is_symlink() for path in folder.iterdir())


def test_a_commit_that_is_there_opens_no_connection(hub: hubs.Hub) -> None:
    pinned = Path(f"hf://{NAME}@{main_of(hub)}")
    events: list[Event] = []
    folder = located(pinned, events.append)
    assert [type(each) for each in events] == [Stage]
    hub.asked.clear()
    assert located(pinned, events.append) == folder
    assert Translator.load(str(pinned)).origin == f"hf://{NAME}@{main_of(hub)}"
    assert hub.asked == []
    assert len(events) == 1


def test_offline_it_works_from_the_cache_alone(
    hub: hubs.Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newest that was fetched stands for the branch; what was not fetched is refused."""
    folder = located(Path(f"hf://{NAME}"))
    hub.asked.clear()
    hubs.connect(monkeypatch, hub, tmp_path / "home", offline=True)
    assert located(Path(f"hf://{NAME}")) == folder
    with pytest.raises(ModelError, match="not in the cache"):
        located(Path("hf://lab/other"))
    assert hub.asked == []


def test_offline_asked_for_by_the_caller(hub: hubs.Hub) -> None:
    with pytest.raises(ModelError, match="not in the cache"):
        located(Path(f"hf://{NAME}"), offline=True)
    assert hub.asked == []


def test_a_cache_that_was_carried_here_is_enough(
    hub: hubs.Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fetched by huggingface_hub itself, elsewhere: nothing of medxlate's is in its folder."""
    from huggingface_hub import hf_hub_download

    for name in ("model.json", "model.safetensors", "predictor.safetensors", "README.md"):
        hf_hub_download(NAME, name)
    assert not (tmp_path / "home" / "assets").exists()
    hubs.connect(monkeypatch, hub, tmp_path / "home", offline=True)
    assert origin_of(located(Path(f"hf://{NAME}"))) == f"hf://{NAME}@{main_of(hub)}"


def test_a_newer_commit_is_another_model(hub: hubs.Hub, tmp_path: Path) -> None:
    first = main_of(hub)
    old = located(Path(f"hf://{NAME}"))
    other = tiny.write_tiny_model(tmp_path, task=tiny.GROUP, target_recipe=tiny.AS_IS)
    export_hub(other, out=tmp_path / "other", license_="mit")
    files = {path.name: path.read_bytes() for path in (tmp_path / "other").iterdir()}
    second = hub.repos[NAME].commit(files)
    new = located(Path(f"hf://{NAME}"))
    assert [origin_of(each) for each in (old, new)] == [
        f"hf://{NAME}@{commit}" for commit in (first, second)
    ]
    assert Predictor.load(new).head.task.kind == "classification"
    assert located(Path(f"hf://{NAME}@{first}")) == old


@pytest.mark.parametrize(
    ("name", "error", "said"),
    [
        ("hf://lab", UsageError, "hf://OWNER/NAME@REVISION"),
        ("hf://lab/mri to ct", UsageError, "hf://OWNER/NAME@REVISION"),
        ("hf://lab/none", ModelError, "does not exist, or is private"),
        (f"hf://{NAME}@v2", ModelError, "no such revision"),
        ("hf://lab/empty", ModelError, "has no model.json"),
        ("hf://lab/secret", ModelError, "does not exist, or is private"),
        ("hf://lab/pickled", ModelError, "not a safetensors file"),
        ("hf://lab/newer", ModelError, "schema version 99"),
    ],
)
def test_what_is_wrong_is_named(
    hub: hubs.Hub, name: str, error: type[Exception], said: str
) -> None:
    files = hub.repos[NAME].commits[main_of(hub)]
    described = files["model.json"].decode()
    for repo, content in {
        "empty": {"README.md": b"nothing"},
        "secret": files,
        "pickled": {**files, "model.json": described.replace("r.safetensors", "r.pt").encode()},
        "newer": {**files, "model.json": b'{"schema_version": 99}'},
    }.items():
        hub.repos[f"lab/{repo}"] = hubs.Repo(private=repo == "secret")
        hub.repos[f"lab/{repo}"].commit(content)
    with pytest.raises(error, match=said):
        located(Path(name))


def test_it_is_exported_like_any_other(hub: hubs.Hub, tmp_path: Path) -> None:
    export_hub(f"hf://{NAME}", out=tmp_path / "out", license_="mit")
    files = hub.repos[NAME].commits[main_of(hub)]
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == files["model.safetensors"]
    assert not (tmp_path / "out" / "hub.json").exists()


def test_changed_weights_are_refused(hub: hubs.Hub) -> None:
    repo = hub.repos[NAME]
    repo.commit({**repo.commits[repo.main], "model.safetensors": b"something else"})
    with pytest.raises(ModelError, match=r"model.safetensors.*SHA-256"):
        Translator.load(f"hf://{NAME}")


def test_a_private_one_is_read_with_the_token_of_the_environment(
    hub: hubs.Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repos[NAME].private = True
    monkeypatch.setenv("HF_TOKEN", hubs.TOKEN)
    assert located(Path(f"hf://{NAME}")).is_dir()
    assert {each for _, _, each in hub.asked} == {f"Bearer {hubs.TOKEN}"}


def test_predict_says_which_models_it_took(hub: hubs.Hub, scans: Path, tmp_path: Path) -> None:
    """The last words of a JSON result; what goes to a person names the commit as well."""
    out = str(tmp_path / "p.csv")
    words = ["predict", str(scans), "--model", f"hf://{NAME}", "--out", out, "--device", "cpu"]
    done = CliRunner().invoke(app, [*words, "--json"])
    assert done.exit_code == 0, done.output
    pinned = f"hf://{NAME}@{main_of(hub)}"
    assert json.loads(done.stdout)["models"] == [pinned]
    assert pinned in "".join(done.stderr.split("\n"))


def test_in_a_process_of_its_own_by_the_environment(
    hub: hubs.Hub, scans: Path, tmp_path: Path
) -> None:
    """HF_ENDPOINT and HF_HOME; a second call with HF_HUB_OFFLINE, while no hub is there."""
    source = str(Path(__file__).resolve().parents[2] / "src")
    env = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "own"), "PYTHONPATH": source}
    env |= {"OMP_NUM_THREADS": "1", "HF_HUB_DISABLE_XET": "1", "PATH": os.environ["PATH"]}

    def run(out: str, **more: str) -> subprocess.CompletedProcess[str]:
        words = ["translate", str(scans), "--model", f"hf://{NAME}", "--out", str(tmp_path / out)]
        return subprocess.run(
            [sys.executable, "-m", "medxlate", *words, "--device", "cpu"],
            env={**env, **more}, capture_output=True, text=True, check=False,
        )  # fmt: skip

    first = run("one")
    assert first.returncode == 0, first.stderr
    assert main_of(hub) in first.stderr.replace("\n", "")
    assert "%|" not in first.stderr  # no bar of another library's
    again = run("two", HF_HUB_OFFLINE="1", HF_ENDPOINT="http://127.0.0.1:9")
    assert again.returncode == 0, again.stderr
    pictures = [np.frombuffer((tmp_path / each / "a.png").read_bytes()[:100], np.uint8)
                for each in ("one", "two")]  # fmt: skip
    assert np.array_equal(*pictures)
