"""What a release says of itself agrees, and the tutorial's reader compares what it should."""

from __future__ import annotations

import importlib.util
import re
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

import medxlate

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def tutorial() -> ModuleType:
    spec = importlib.util.spec_from_file_location("run_tutorial", ROOT / "docs/run_tutorial.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # dataclass looks its module up there
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "run_tutorial", module)
        spec.loader.exec_module(module)
    return module


def test_citation_has_the_version_and_the_licence() -> None:
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    keys = dict(re.findall(r"^([a-z-]+): (.+)$", citation, re.MULTILINE))
    assert keys["cff-version"] == "1.2.0"
    assert keys["version"] == medxlate.__version__
    assert keys["license"] == "Apache-2.0"
    assert {"message", "title", "type"} <= keys.keys()


def test_the_change_log_has_the_form_of_keep_a_changelog() -> None:
    log = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## (.+)$", log, re.MULTILINE)
    assert versions[0] == "Unreleased"
    assert all(re.fullmatch(r"\d+\.\d+\.\d+ - \d{4}-\d\d-\d\d", each) for each in versions[1:])
    kinds = set(re.findall(r"^### (.+)$", log, re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_tested_versions_lie_within_what_the_metadata_allow() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lists = [project["dependencies"], *project["optional-dependencies"].values()]
    needs = [Requirement(text) for texts in lists for text in texts]
    tested = dict(
        line.split("==")
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if "==" in line
    )
    tested = {name.lower().replace("_", "-"): version for name, version in tested.items()}
    for need in needs:
        name = need.name.lower().replace("_", "-")
        assert name in tested, f"{need} is not in constraints.txt"
        assert Version(tested[name]) in need.specifier, need
        assert {each.operator for each in need.specifier} == {">="}, "lower bounds are tested"


@pytest.fixture(scope="module")
def hook() -> ModuleType:
    """hatch_build.py, without the build tool that calls it."""
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    interface = ModuleType("hatchling.metadata.plugin.interface")
    interface.MetadataHookInterface = object  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, interface.__name__, interface)
        for package in ("hatchling", "hatchling.metadata", "hatchling.metadata.plugin"):
            patch.setitem(sys.modules, package, ModuleType(package))
        spec.loader.exec_module(module)
    return module


def targets(text: str) -> list[str]:
    return re.findall(r"\]\(([^)]*)\)", text)


def test_a_package_index_gets_no_relative_link(hook: ModuleType) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "](docs/" in readme
    without = hook.long_description(readme, "", "1.2.3")
    assert [link for link in targets(without) if not link.startswith("https://")] == []
    assert "demo.png" not in without
    assert "What we found on the paper's data" in without


def test_a_release_links_to_the_files_of_its_tag(hook: ModuleType) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    root = "https://host.example/org/medxlate"
    linked = targets(hook.long_description(readme, f"{root}/", "1.2.3"))
    assert len(linked) == len(targets(readme))
    assert all(link.startswith("https://") for link in linked)
    ours = [link.removeprefix(root) for link in linked if link.startswith(root)]
    assert "/raw/v1.2.3/docs/demo.png" in ours
    for link in [*ours, *(url.removeprefix(root) for url in hook.urls(root, "1.2.3").values())]:
        path = re.sub(r"^/(?:raw|blob)/v1\.2\.3/|#.*$", "", link)
        assert not path or (ROOT / path).exists(), link


def test_tutorial_shows_every_command(tutorial: ModuleType) -> None:
    page = (ROOT / "docs/tutorial.md").read_text(encoding="utf-8")
    lines = [command.line for command in tutorial.read_commands(page)]
    assert len(lines) == len(re.findall(r"^\$ ", page, re.MULTILINE))
    shown = {line.split()[1] for line in lines if line.startswith("medxlate ")}
    assert {"prepare", "train", "translate", "predict", "evaluate", "plan", "scrub"} <= shown


def test_what_commands_print_is_shown_only_where_it_is_compared(tutorial: ModuleType) -> None:
    pages = {*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")}
    pages.remove(ROOT / "docs/reference/cli.md")  # commands of the help texts, without output
    shown = {page for page in pages if re.search(r"^\$ |[┃│]", page.read_text("utf-8"), re.M)}
    assert shown == {ROOT / f"docs/{name}.md" for name in tutorial.PAGES}


def test_only_what_the_machine_decides_is_not_compared(tutorial: ModuleType) -> None:
    def differ(printed: str, now: str) -> bool:
        return bool(tutorial.differences(tutorial.Command("x", printed), now))

    assert not differ("ct: 60 images in 0.4 s\n", "ct: 60 images in 12.1 s\n")
    assert differ("ct: 60 images in 0.4 s\n", "ct: 59 images in 0.4 s\n")
    assert not differ("epoch 1/3  val_mse 5.9  (kept)\n", "epoch 1/3  val_mse 506\n")
    assert differ("epoch 1/3  val_mse 5.9\n", "epoch 2/3  val_mse 5.9\n")
    assert not differ("│ per image │ 12 │   154 │\n", "│ per image │ 12 │ 153.4 │\n")
    assert differ("│ per image │ 12 │   154 │\n", "│ per image │ 13 │   154 │\n")
    assert differ("done\n", "failed\n")


def test_new_output_takes_the_place_of_the_old(tutorial: ModuleType) -> None:
    page = "a\n```\n$ one\nold\n$ two\n```\nb\n```\n$ three\n```\n"
    new = tutorial.replaced(page, ["1\n", "", "3\n"])
    assert new == "a\n```\n$ one\n1\n$ two\n```\nb\n```\n$ three\n3\n```\n"
