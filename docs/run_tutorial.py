"""Run the commands of a tutorial in order and compare what they print with the page.

``python docs/run_tutorial.py`` runs every line of docs/tutorial.md that begins with ``$ ``, exactly
as printed, in an empty folder, and fails where a command fails or prints something else. What
depends on the machine is not compared: numbers with decimals, seconds, hashes, what comes of a
training. ``--update`` writes what was printed into the page; ``--keep FOLDER`` runs there, removes
nothing. ``python docs/run_tutorial.py real-data --images FOLDER`` does the same with
docs/real-data.md, on a copy of the folders in FOLDER.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

DOCS = Path(__file__).parent
PAGES = ("tutorial", "real-data")
BLOCK = re.compile(r"^```\n(\$ .*?)^```$", re.MULTILINE | re.DOTALL)
WIDTH = "170"

MASKS = (
    (re.compile(r"[0-9a-f]{64}"), "HASH"),
    (re.compile(r"  \((?:best so far|kept)\)|at step \d+"), ""),
    (re.compile(r"(?<=val_mse )\S+|(?<=val_mae )\S+|(?<=error )\d\S*"), "#"),
    (re.compile(r"-?\b\d+\.\d+(e[-+]\d+)?"), "#"),
    (re.compile(r"\b\d+ (s|min|h)\b"), "# s"),
    (re.compile(r"\b\d+(?= files hold)"), "#"),  # the best step has a checkpoint of its own, or not
    (re.compile(r"(?<=[:.]) .*95 %.*"), "#"),  # what a study found
    (re.compile(r"^.*outside the range of the training labels.*$"), ""),
    # A cell that is an interval, or has one.
    (re.compile(r"(?<=│)(?=[^│]*(\(|\)| to ))[-+\d.e#() to]+(?=│)"), "#"),
    # In tables, a figure of four digits may have lost its decimals; columns are as wide as it is.
    (re.compile(r"(?<=│) +-?(\d{3,}|#) +(?=│)"), "#"),
    (re.compile(r"[━┏┓┳┡╇┩┗┛└┘┴─]+"), ""),
    (re.compile(r"\s+"), " "),
)


@dataclass(frozen=True)
class Command:
    """A command of the page and what the page says it prints."""

    line: str
    printed: str


def read_commands(page: str) -> list[Command]:
    """Return the commands of all fenced blocks that begin with ``$ ``, in order."""
    commands = []
    for block in BLOCK.findall(page):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            line, _, printed = part.partition("\n")
            commands.append(Command(line, printed))
    return commands


def run(command: Command, folder: Path) -> str:
    """Return what the command prints, stderr included; exit where it fails."""
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "COLUMNS": WIDTH,
        "LC_ALL": "C.UTF-8",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        ["bash", "-c", command.line],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        check=False,
    )
    if done.returncode:
        sys.exit(f"$ {command.line}\n{done.stdout}exit code {done.returncode}")
    return "".join(f"{line.rstrip()}\n" for line in done.stdout.splitlines())


def masked(printed: str) -> list[str]:
    """Return the lines without what depends on the machine."""
    lines = []
    for line in printed.splitlines():
        for pattern, replacement in MASKS:
            line = pattern.sub(replacement, line)
        lines.append(line.strip())
    return [line for line in lines if line]


def differences(command: Command, printed: str) -> str:
    """Return how the page and the output differ, or an empty text."""
    lines = difflib.unified_diff(
        masked(command.printed), masked(printed), "on the page", "printed now", lineterm=""
    )
    return "\n".join(lines)


def replaced(page: str, outputs: list[str]) -> str:
    """Return the page with new outputs, one for each command."""
    rest = iter(outputs)

    def block(match: re.Match[str]) -> str:
        lines = [line for line in match[1].splitlines() if line.startswith("$ ")]
        return "```\n" + "".join(f"{line}\n{next(rest)}" for line in lines) + "```"

    return BLOCK.sub(block, page)


def main() -> None:
    """Run all commands; exit with what differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", nargs="?", choices=PAGES, default="tutorial")
    parser.add_argument("--update", action="store_true")
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--images", type=Path, help="folders that the page's commands begin with")
    options = parser.parse_args()
    path = DOCS / f"{options.page}.md"
    page = path.read_text(encoding="utf-8")
    outputs, wrong = [], []
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            sys.exit(f"{folder} is not empty")
        if options.images:
            shutil.copytree(options.images, folder, dirs_exist_ok=True)
        for command in read_commands(page):
            began = time.monotonic()
            outputs.append(run(command, folder))
            print(f"{time.monotonic() - began:5.1f} s  {command.line}", flush=True)
            if different := differences(command, outputs[-1]):
                wrong.append(f"$ {command.line}\n{different}")
    if options.update:
        path.write_text(replaced(page, outputs), encoding="utf-8")
    elif wrong:
        sys.exit("\n\n".join([*wrong, "With --update the page takes the output."]))


if __name__ == "__main__":
    main()
