"""``config show`` and ``config init``: where values come from, and a file that explains them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from medxlate.base.errors import ConfigError
from medxlate.cli.app import app
from medxlate.config import (
    PRESETS,
    Config,
    chosen,
    document,
    flat,
    is_name,
    keys,
    resolve,
    settings,
)


def call(*words: str | Path, width: int = 80) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": str(width)})


def test_every_value_names_what_it_comes_from(tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    file.write_text("method = 'cyclegan'\n[optimizer]\nepochs = 7\nbatch_size = 3\n")
    found = {
        each.key: each
        for each in settings(preset="scarce", file=file, sets=["optimizer.batch_size=2"])
    }
    assert list(found) == keys()
    assert (found["optimizer.batch_size"].value, found["optimizer.batch_size"].source) == (
        2,
        "--set",
    )
    assert (found["optimizer.epochs"].value, found["optimizer.epochs"].source) == (7, str(file))
    assert (found["method"].value, found["method"].source) == ("cyclegan", str(file))
    skip = found["model.skip"]
    assert (skip.value, skip.default, skip.source) == ("unet", "none", "preset scarce")
    assert found["data.folder"].source == "default"
    assert all(each.meaning and each.default == flat(Config())[each.key] for each in found.values())


def test_a_sections_keys_are_chosen_by_its_name() -> None:
    found = [each.key for each in chosen(settings(), ["split", "method"])]
    assert found == ["method", *(key for key in keys() if key.startswith("split."))]
    assert is_name("split")
    assert is_name("split.seed")
    assert not is_name("seed")
    with pytest.raises(ConfigError, match="Did you mean 'optimizer'"):
        chosen(settings(), ["optimiser"])


@pytest.mark.parametrize("preset", [None, *PRESETS])
def test_the_file_is_the_preset_and_explains_every_key(tmp_path: Path, preset: str | None) -> None:
    file = tmp_path / "c.toml"
    file.write_text(document(settings(preset=preset), preset))
    assert resolve(file=file) == resolve(preset=preset)
    said = " ".join(line.lstrip("# ") for line in file.read_text().splitlines())
    for each in settings():
        assert " ".join(each.meaning.split()) in said
    changed = [each.key for each in settings(preset=preset) if each.source != "default"]
    active = re.findall(r"^(\w+) = ", file.read_text(), re.MULTILINE)
    assert active == [key.rpartition(".")[2] for key in changed]


def test_what_is_commented_out_are_the_defaults(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    text = document(settings())
    file.write_text(re.sub(r"^#(\w+ = )(?!none$)", r"\1", text, flags=re.MULTILINE))
    assert len(re.findall(r"^\w+ = ", file.read_text(), re.MULTILINE)) > 60
    assert resolve(file=file) == Config()


def test_init_writes_what_train_takes(tmp_path: Path) -> None:
    file = tmp_path / "new" / "ct.toml"
    words = ("config", "init", "--preset", "scarce", "-o", file, "--set", "data.target=ct")
    done = call(*words)
    assert done.exit_code == 0, done.output
    assert resolve(file=file) == resolve(preset="scarce", sets=["data.target=ct"])
    file.write_text("# mine\n")
    assert call(*words).exit_code == 1
    assert file.read_text() == "# mine\n"
    assert call(*words, "--overwrite").exit_code == 0
    assert resolve(file=file).data.target == "ct"
    assert call("config", "init", "-o", tmp_path / "c.json").exit_code == 2


def test_a_runs_configuration_is_shown_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = Path("runs") / "mri-to-ct-001"
    run.mkdir(parents=True)
    made = resolve(preset="scarce", sets=["optimizer.epochs=9"])
    (run / "config.json").write_text(made.model_dump_json())
    (run.parent / "latest").write_text("mri-to-ct-001\n")
    shown = json.loads(call("config", "show", "runs/latest", "optimizer", "--json").stdout)
    found = {each["key"]: each for each in shown["settings"]}
    assert {key.partition(".")[0] for key in found} == {"optimizer"}
    assert found["optimizer.epochs"]["value"] == 9
    assert found["optimizer.epochs"]["source"] == str(run / "config.json")
    assert found["optimizer.buffer_size"]["source"] == "default"
    assert call("config", "show", run, "--preset", "small").exit_code == 2
    assert call("config", "show", "runs/other").exit_code == 1


@pytest.mark.parametrize("width", [40, 80, 300])
def test_show_loses_no_letter(width: int) -> None:
    shown = call("config", "show", "--preset", "scarce", width=width).output
    assert not re.search(r" $", shown, re.MULTILINE)
    text = re.sub(r"\s", "", shown)
    for each in settings(preset="scarce"):
        assert re.sub(r"\s", "", each.meaning) in text
        assert each.key in text


def test_keys_and_sections_are_completed() -> None:
    line = "medxlate config show optimizer.e"
    env = {"_MEDXLATE_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": "3"}
    found = CliRunner().invoke(app, [], env=env, prog_name="medxlate").stdout.split()
    assert found == ["optimizer.epochs", "optimizer.ema_decay"]
