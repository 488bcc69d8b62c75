"""Every command that the pages show is one that the program takes."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.core import TyperGroup

from medxlate.cli.app import app
from medxlate.config import PRESETS, Config, ConfigSection
from medxlate.method.registry import METHODS

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    path
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/*.md")]
    if path.name != "CHANGELOG.md"  # it also tells of what was
]
FENCED = re.compile(r"^( *)```[a-z]*\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"^(?: {4,}(?:\$ )?(?:medxlate|torchrun) .*\n)(?: {8,}\S.*\n)*", re.MULTILINE)
INLINE = re.compile(r"`((?:medxlate|torchrun .*-m medxlate) [^`]+)`")
ASSIGNED = re.compile(r'^(\w+)="((?:[^"\\]|\\.)*)"$', re.MULTILINE | re.DOTALL)
# The package that docs/how-to/extend.md is about, and what it adds.
PLUGIN = tomllib.loads((ROOT / "examples/plugin/pyproject.toml").read_text("utf-8"))["project"]
PLUGIN_METHODS = set(PLUGIN["entry-points"]["medxlate.methods"])
PLACEHOLDER = re.compile(r"\.\.\.|^[A-Z][A-Z_.]*$")


def shown(text: str) -> list[str]:
    """The calls of medxlate in code blocks, indented lines and code spans, variables put in."""
    variables = {name: " ".join(value.split()) for name, value in ASSIGNED.findall(text)}
    found = []
    for _, block in FENCED.findall(text):
        found += _calls(block, variables)
    unfenced = FENCED.sub("", text)
    for block in INDENTED.findall(unfenced):
        found += _calls(block, variables)
    return found + [
        call
        for span in INLINE.findall(unfenced)
        for call in _calls(" ".join(span.split()), variables)
    ]


def _calls(block: str, variables: dict[str, str]) -> list[str]:
    for name, value in variables.items():
        block = re.sub(rf"\${name}\b", value, block)
    lines = re.sub(r"\\\n\s*", " ", block).splitlines()
    calls = []
    for line in lines:
        command = re.sub(r"^\s*(?:\$ )?", "", line)
        command = re.sub(r"^(?:srun|time|\w+=\S+) ", "", command)
        command = re.sub(r"^torchrun .*?-m medxlate", "medxlate", command)
        if command.startswith("medxlate "):
            calls.append(re.split(r" [|>] | && ", command)[0])
    return calls


def words(call: str) -> list[str]:
    return shlex.split(call, comments=True)[1:]


def parsed(call: str) -> tuple[str, dict[str, Any], list[str]]:
    """The command of a call, its options, and what is neither; raises where it does not exist."""
    command: Any = typer.main.get_command(app)
    context = command.make_context("medxlate", [], resilient_parsing=True)
    rest = words(call)
    name = ""
    while isinstance(command, TyperGroup) and rest and not rest[0].startswith("-"):
        name = f"{name} {rest[0]}".strip()
        command = command.commands[rest.pop(0)]
        context = command.make_context(name, [], parent=context, resilient_parsing=True)
    context.resilient_parsing = False  # which made groups willing, and would hide what is wrong
    rest = [word for word in rest if word != "..."]
    options, arguments, _ = command.make_parser(context).parse_args(args=rest)
    return name, options, arguments


CALLS = [
    (page.relative_to(ROOT).as_posix(), call)
    for page in PAGES
    for call in shown(page.read_text("utf-8"))
]


def test_calls_are_found_wherever_they_are_shown() -> None:
    text = (
        "`medxlate a --x`\n\n```bash\n$ medxlate b \\\n    --y  # why\n```\n\n"
        "    torchrun --n 4 -m medxlate c\n"
        '\n```\nS="--z 1\n  --w 2"\nmedxlate d $S | head\n```\n'
    )
    assert [words(call) for call in shown(text)] == [
        ["b", "--y"],
        ["d", "--z", "1", "--w", "2"],
        ["c"],
        ["a", "--x"],
    ]
    assert len(CALLS) > 150


@pytest.mark.parametrize("call", ["medxlate train --sorce mri", "medxlate trian", "medxlate a --x"])
def test_a_call_with_a_typing_error_is_not_understood(call: str) -> None:
    with pytest.raises(Exception, match=r"sorce|trian|'a'"):
        parsed(call)


@pytest.mark.parametrize(("page", "call"), CALLS)
def test_a_call_that_a_page_shows_is_understood(page: str, call: str) -> None:
    try:
        name, options, arguments = parsed(call)
    except Exception as problem:  # of click: no such command, no such option
        pytest.fail(f"{page}: {call}: {problem!r}")
    assert "..." in call or not arguments, f"{page}: {call}: nothing takes {arguments}"
    for key in options.get("sets") or ():
        assert exists(key.partition("=")[0]), f"{page}: {call}: there is no key {key}"
    preset = options.get("preset")
    if name in {"train", "compare", "plan"} and preset and not PLACEHOLDER.search(preset):
        assert preset in PRESETS, f"{page}: {call}"
    for method in _listed(options.get("method") or options.get("methods")):
        if not PLACEHOLDER.search(method):
            known = METHODS.keys() | PLUGIN_METHODS
            assert method.partition("+")[0] in known, f"{page}: {call}: {method}"


def _listed(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value or ())


def exists(key: str) -> bool:
    """Whether the configuration has a key such as ``optimizer.epochs``."""
    fields, *names = Config.model_fields, *key.split(".")
    while names:
        field = fields.get(names.pop(0))
        if field is None:
            return False
        if not (isinstance(field.annotation, type) and issubclass(field.annotation, ConfigSection)):
            # names below a mapping are the user's, such as those of losses that a plug-in adds
            return (
                not names or "Mapping" in str(field.annotation) or "dict" in str(field.annotation)
            )
        fields = field.annotation.model_fields
    return False
