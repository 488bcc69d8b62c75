"""``--help``: it is whole, its options stand in panels, and its examples work."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import Any, get_args

import pytest
import typer.main
from typer.testing import CliRunner

from medxlate.cli import complete
from medxlate.cli.app import app
from walking import commands

COMMANDS = commands()
WIDTH = 80
OPTIONS = [
    (name, option)
    for name, command in COMMANDS.items()
    for option in command.params
    if option.param_type_name == "option" and not option.hidden
]
# Sets that are open to files, plug-ins and other devices: the library checks them.
OPEN = {"--method", "--layout", "--recipe", "--window", "--features", "--device", "--pretrained"}
OPEN |= {"--dicom-modality", "--source-recipe", "--target-recipe"}
OPEN |= {"--source-window", "--target-window"}


def shown(name: str) -> str:
    result = CliRunner().invoke(app, [*name.split(), "--help"], env={"COLUMNS": str(WIDTH)})
    assert result.exit_code == 0, result.output
    return result.output


def examples(name: str) -> list[str]:
    """The lines of a command's examples, as the help has them."""
    return "\n".join(re.findall(r"```\n(.*?)```", COMMANDS[name].help, re.DOTALL)).splitlines()


def calls(lines: list[str]) -> list[list[str]]:
    """The words of every call of medxlate, after its name."""
    text = "\n".join(lines).replace("\\\n", " ")
    words = [shlex.split(line[2:]) for line in text.splitlines() if line.startswith("$ ")]
    return [each[each.index("medxlate") + 1 :] for each in words]


def rows(text: str) -> Iterator[tuple[list[str], str]]:
    """The first words of each row of the panels, and the text beside them in one line."""
    head: list[str] = []
    said: list[str] = []
    for line in text.splitlines():
        found = re.fullmatch(r"│(?: |\*)?(.*) │", line)
        if found is None:
            if head:
                yield head, " ".join(said)
            head, said = [], []
            continue
        cells = re.split(r" {2,}", found[1].strip())
        if re.match(r"│ (?:[* ]  )?--?\w", line):
            if head:
                yield head, " ".join(said)
            *head, last = cells
            said = [last]
        elif head:
            said.append(" ".join(cells))


def plain(text: str) -> str:
    """A text without what Markdown and line breaks make of it."""
    return re.sub(r"[`\s]", "", text)


@pytest.mark.parametrize("name", COMMANDS)
def test_no_option_loses_text_at_80_columns(name: str) -> None:
    page = shown(name)
    assert max(map(len, page.splitlines())) <= WIDTH
    said = {}
    for head, text in rows(page):
        said |= {word: text for word in head if word.startswith("-")}
    for option in COMMANDS[name].params:
        if option.param_type_name == "option" and not option.hidden:
            for each in (*option.opts, *option.secondary_opts):
                assert plain(option.help) in plain(said[each]), (each, said[each])


@pytest.mark.parametrize(("name", "option"), OPTIONS)
def test_every_option_has_a_text_and_stands_in_a_panel(name: str, option: Any) -> None:
    assert option.help[:1].isupper()
    assert option.help.endswith(".")
    assert option.rich_help_panel not in (None, "Options")
    if not option.is_flag:
        assert re.fullmatch(r"[A-Z,=/\[\]]{1,13}", option.metavar), (
            "short, so that the text has room"
        )


@pytest.mark.parametrize("name", COMMANDS)
def test_help_and_messages_come_last(name: str) -> None:
    panels = re.findall(r"^╭─ (.+?) ─", shown(name), re.MULTILINE)
    assert panels[-1] == "Messages"
    assert "Options" not in panels


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_examples_that_fit_and_parse(name: str) -> None:
    lines = examples(name)
    page = shown(name)
    assert calls(lines), "an example"
    for line in lines:
        assert not line or f"  {line} " in page, "broken at 80 columns: continue it with \\"
    for before, line in zip(["", *lines], lines, strict=False):
        assert not line.startswith("$") or before[:1] in ("#", "$"), f"say what it does: {line}"
    assert any(" ".join(words).startswith(name) for words in calls(lines))
    for words in calls(lines):
        parse(words)


def test_the_first_page_has_examples_that_parse() -> None:
    group = typer.main.get_command(app)
    lines = "\n".join(re.findall(r"```\n(.*?)```", group.help or "", re.DOTALL)).splitlines()
    assert len(calls(lines)) > 3
    for words in calls(lines):
        parse(words)


def parse(words: list[str]) -> None:
    """Parse a call as the command line does, and run nothing."""
    command: Any = typer.main.get_command(app)
    context = None
    while hasattr(command, "commands"):
        context = command.make_context("medxlate", words[:1], parent=context)
        command, words = command.commands[words[0]], words[1:]
    command.make_context("medxlate", list(words), parent=context)


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--task", complete.TASKS),
        ("--plane", complete.PLANES),
        ("--preset", complete.PRESETS),
        ("--policy", complete.POLICIES),
        ("--precision", complete.PRECISIONS),
        ("--compile", complete.COMPILING),
        ("--track", complete.TRACKERS),
        ("--phi", complete.PHI),
        ("--metric", complete.METRICS),
        ("--layout", complete.LAYOUTS),
        ("--recipe", (*complete.RECIPES, "auto")),
        ("--window", complete.WINDOWS),
        ("--method", (*complete.PLAIN_METHODS, "joint+autoaugment")),
        ("--device", complete.DEVICES),
    ],
)
def test_choices_are_listed_and_others_refused(option: str, words: tuple[str, ...]) -> None:
    declared = [(name, each) for name, each in OPTIONS if option in each.opts]
    assert declared
    for name, each in declared:
        missing = [word for word in words if not re.search(rf"\b{re.escape(word)}\b", each.help)]
        assert not missing, name
        if option not in OPEN:
            wrong = CliRunner().invoke(
                app, [*name.split(), option, words[0][:-1] + "~"], env={"COLUMNS": "400"}
            )
            assert wrong.exit_code == 2
            assert f"is not one of {', '.join(words)}. Did you mean" in wrong.output


def test_the_words_are_those_of_the_library() -> None:
    from medxlate.cli import prepare, translate
    from medxlate.config import PRESETS, Compiling, Config
    from medxlate.dataset.labels import TaskKind
    from medxlate.dataset.layouts import LAYOUTS
    from medxlate.images.orientation import PLANES
    from medxlate.images.pseudonym import PHI
    from medxlate.images.recipes import KINDS, WINDOWS

    sections = {name: field.annotation for name, field in Config.model_fields.items()}

    def of(section: str, key: str) -> tuple[str, ...]:
        kind = sections[section].model_fields[key].annotation  # type: ignore[union-attr]
        inner = get_args(kind)
        return inner if isinstance(inner[0], str) else get_args(inner[0])

    assert complete.TASKS == get_args(TaskKind) == get_args(prepare.TaskKind)
    assert complete.PLANES == PLANES == get_args(prepare.Plane)
    assert complete.PHI == PHI == get_args(translate.Phi)
    assert set(complete.PRESETS) == set(PRESETS)
    assert get_args(Compiling) == complete.COMPILING
    assert of("runtime", "precision") == complete.PRECISIONS
    assert of("runtime", "trackers") == complete.TRACKERS
    assert of("split", "policy") == complete.POLICIES
    assert set(complete.LAYOUTS) <= set(LAYOUTS)
    assert set(complete.RECIPES) <= set(KINDS)
    assert tuple(WINDOWS) == complete.WINDOWS


def test_wrong_words_are_an_object_under_json() -> None:
    wrong = CliRunner().invoke(
        app, ["prepare", "x", "--modality", "ct", "--plane", "axal", "--json"]
    )
    assert wrong.exit_code == 2
    assert '"error"' in wrong.stdout
    assert "Did you mean 'axial'?" in wrong.stdout
