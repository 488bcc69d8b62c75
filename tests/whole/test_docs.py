"""Pages that are generated from the code are not out of date, and the README tells the truth."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import re
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import pytest
from pydantic import BaseModel

import medxlate
from medxlate.config import Config
from medxlate.dataset.index import COLUMNS
from medxlate.evaluation.results import ROLES

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", ["cli", "config", "records", "glossary"])
def test_reference_is_what_the_code_says(generate: ModuleType, page: str) -> None:
    written = (ROOT / "docs" / "reference" / f"{page}.md").read_text(encoding="utf-8")
    assert written == getattr(generate, f"{page}_page")(), "run `make docs`"


def test_links_lead_somewhere() -> None:
    broken = []
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]:
        for link in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
            if not link.startswith("http") and not (page.parent / link).exists():
                broken.append(f"{page.name}: {link}")
    assert not broken


def anchors(page: str) -> set[str]:
    """The anchors of a page's headings, as GitHub and the site make them."""
    text = re.sub(r"^```.*?^```$", "", page, flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    plain = (re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", title).lower() for title in titles)
    return {re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", title).strip()) for title in plain}


def test_anchors_are_headings() -> None:
    broken = []
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]:
        links = re.findall(r"\]\(([^)#\s]*)#([^)\s]+)\)", page.read_text(encoding="utf-8"))
        for link, anchor in links:
            target = page.parent / link if link else page
            if link.startswith("http") or target.suffix != ".md":
                continue
            if anchor not in anchors(target.read_text(encoding="utf-8")):
                broken.append(f"{page.name}: {link}#{anchor}")
    assert not broken


def test_readme_shows_only_options_that_exist() -> None:
    reference = (ROOT / "docs" / "reference" / "cli.md").read_text(encoding="utf-8")
    shown = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", (ROOT / "README.md").read_text()))
    assert {option for option in shown if f"`{option}`" not in reference} == set()


def test_every_field_of_a_record_has_a_meaning(generate: ModuleType) -> None:
    records = [record for group in generate.RECORDS.values() for record in group]
    missing = [
        f"{record.__name__}.{name}"
        for record in records
        for name, field in record.model_fields.items()
        if not (generate.attributes(record).get(name) or field.description)
    ]
    assert not missing, "name them under Attributes in the docstring"


def test_a_record_inside_a_described_record_is_described(generate: ModuleType) -> None:
    described = {record for group in generate.RECORDS.values() for record in group}
    inside = {
        kind
        for record in described
        for field in record.model_fields.values()
        for kind in _records_in(field.annotation)
    }
    assert inside - described <= {Config}, "add them to RECORDS in docs/generate.py"


def _records_in(annotation: Any) -> set[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return {annotation}
    return {kind for inner in get_args(annotation) for kind in _records_in(inner)}


FILE = re.compile(r"^\w[\w.-]*\.(?:jsonl?|parquet|csv|key|safetensors|npy|md|html)$")
# Files of others that are read, the demo's own, and what is said in help texts.
FOREIGN = {"data.csv", "labels.csv", "demo.json", "patient_demographics.csv", "sessions.json"}
FOREIGN |= {"model.safetensors", "meta.csv", "ages.csv", "table.csv", "page.html"}
# Names that the code puts together.
COMPOSED = {"results.parquet", "results.csv", "subgroups.csv", "README.md", "report.json"}
COMPOSED |= {f"{role}.npy" for role in ROLES}


def test_folders_page_names_the_files_of_the_code() -> None:
    named = set()
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                named |= {part for part in node.value.split("/") if FILE.match(part)}
    page = (ROOT / "docs" / "reference" / "folders.md").read_text(encoding="utf-8")
    cells = re.findall(r"`([^`\n]+)`", page)
    shown = {part for cell in cells for part in re.split(r"[/ ]", cell) if FILE.match(part)}
    assert named - FOREIGN - shown == set(), "describe them in docs/reference/folders.md"
    numbered = {name for name in shown if re.search(r"\d", name)}
    assert shown - named - numbered - COMPOSED == set(), "no module has files of these names"


def test_folders_page_names_the_columns_of_slices() -> None:
    page = (ROOT / "docs" / "reference" / "folders.md").read_text(encoding="utf-8")
    (row,) = re.findall(r"^\| `<modality>/slices\.parquet` .*", page, re.MULTILINE)
    assert {f"`{name}`" for name in COLUMNS} <= set(re.findall(r"`\w+`", row))


def test_every_public_name_has_a_docstring() -> None:
    for name in medxlate.__all__:
        if name != "__version__":
            assert inspect.getdoc(getattr(medxlate, name)), name


@pytest.mark.parametrize("page", ["architecture", "decisions", "how-to/extend"])
def test_modules_that_a_page_names_are_there(page: str):
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([a-z_/]+/[a-z_]+\.py)`", text))
    assert len(named) > 3
    homes = (ROOT / "src" / "medxlate", ROOT)
    assert [name for name in sorted(named) if not any((h / name).is_file() for h in homes)] == []


def test_every_room_is_in_the_architecture():
    rooms = {path.parent.name for path in (ROOT / "src" / "medxlate").glob("*/__init__.py")}
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    assert [room for room in sorted(rooms) if f"{room}/" not in text] == []


def test_the_front_page_leads_to_every_task() -> None:
    front = (ROOT / "docs/index.md").read_text(encoding="utf-8")
    tasks = sorted((ROOT / "docs/how-to").glob("*.md"))
    assert [page.name for page in tasks if f"how-to/{page.name}" not in front] == []
