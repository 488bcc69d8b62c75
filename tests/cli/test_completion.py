"""The shell's completion through typer's protocol, and options that every command has."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from medxlate.cli import complete
from medxlate.cli.app import app


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("mri-to-ct-001", "pet-to-ct-001"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "config.json").write_text("{}")
    (tmp_path / "runs" / "latest").write_text("pet-to-ct-001\n")
    (tmp_path / "runs" / "notes").mkdir()
    (tmp_path / "data").mkdir()
    held = {"modalities": {"mri": {}, "ct": {}, "pet": {}}}
    (tmp_path / "data" / "dataset.json").write_text(json.dumps(held))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def completed(line: str) -> list[str]:
    """What bash would offer at the end of a line."""
    words = line.split(" ")
    env = {"_MEDXLATE_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": ""}
    env["COMP_CWORD"] = str(len(words) - 1)
    result = CliRunner().invoke(app, [], env=env, prog_name="medxlate")
    return result.stdout.split()


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("medxlate sc", ["scrub"]),
        ("medxlate train --source ", ["ct", "mri", "pet"]),
        ("medxlate train --target m", ["mri"]),
        ("medxlate train --preset ", ["debug", "paper", "scarce", "small"]),
        ("medxlate train --method mu", ["multitask"]),
        ("medxlate train --device c", ["cpu", "cuda", "cuda:0"]),
        ("medxlate train --resume --name pet", ["pet-to-ct-001"]),
        ("medxlate compare --method joint+r", ["joint+random-erasing"]),
        ("medxlate predict x --model runs/m", ["runs/mri-to-ct-001"]),
        ("medxlate translate x --model runs/l", ["runs/latest"]),
        ("medxlate runs rm ", ["mri-to-ct-001", "pet-to-ct-001", "latest"]),
        ("medxlate runs show --runs nowhere ", []),
        ("medxlate fetch r", ["resnet50"]),
    ],
)
def test_values_are_offered(project: Path, line: str, offered: list[str]) -> None:
    assert sorted(completed(line)) == sorted(offered)


def test_a_damaged_dataset_offers_nothing(project: Path) -> None:
    (project / "data" / "dataset.json").write_text("[")
    assert completed("medxlate train --source ") == []


def test_completing_loads_no_torch(project: Path) -> None:
    code = (
        "import sys\nfrom medxlate.cli.app import app\n"
        "try:\n    app(prog_name='medxlate')\nexcept SystemExit:\n    pass\n"
        "print(*{name.split('.')[0] for name in sys.modules}, file=sys.stderr)"
    )
    env = {"_MEDXLATE_COMPLETE": "complete_bash", "COMP_CWORD": "3"}
    env["COMP_WORDS"] = "medxlate train --preset "
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | env
    )
    assert "small" in run.stdout.split()
    assert not {"torch", "numpy", "pandas", "timm"} & set(run.stderr.splitlines()[-1].split())


def test_completion_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "True")
    result = CliRunner().invoke(app, ["--install-completion", "bash"], prog_name="medxlate")
    assert result.exit_code == 0, result.output
    script = tmp_path / ".bash_completions" / "medxlate.sh"
    assert "_MEDXLATE_COMPLETE=complete_bash" in script.read_text()
    from medxlate.doctor import examine

    (completion,) = (check for check in examine(tmp_path) if check.name == "completion")
    assert completion.state == "ok"


def test_the_names_that_are_offered_exist() -> None:
    from medxlate.evaluation.fidelity import NAMES
    from medxlate.evaluation.paired import NAMES as PAIRED
    from medxlate.evaluation.prediction_metrics import CLASSIFICATION, REGRESSION
    from medxlate.evaluation.tstr import NAME as TSTR
    from medxlate.method.augment import AUGMENTATIONS
    from medxlate.method.registry import METHODS
    from medxlate.pretrained import REGISTRY

    mixing = [name for name, method in METHODS.items() if method.mixes]
    mixed = {f"{base}+{each}" for base in mixing for each in AUGMENTATIONS}
    assert set(complete.METHODS) == {*METHODS, *mixed}
    assert {*REGRESSION, *CLASSIFICATION, *NAMES, *PAIRED, TSTR} == set(complete.METRICS)
    assert set(complete.PRETRAINED) == set(REGISTRY)
