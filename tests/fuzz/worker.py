"""The process that reads damaged files: each within limits, its outcome told on one line.

Run as ``python -m fuzz.worker CORPUS SCRATCH TARGETS``, of which the last names a module; it reads
lines of kind, number and seed.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import resource
import shutil
import sys
import time
import traceback
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from fuzz.mutate import drawn
from fuzz.targets import KINDS, Kind, Place, Use, clean
from medxlate.base.errors import MedxlateError

MEMORY = 1 << 30  # bytes above what the process had before


@dataclass
class Outcome:
    """What became of one input.

    Attributes:
        kind: Of which kind it is.
        number: Its number.
        outcome: ``read``, ``refused`` (a MedxlateError), or ``failed``.
        why: The error's text, or the end of the traceback.
        seconds: How long it took.
        grown: How much more memory the process had at most, bytes.
    """

    kind: str
    number: int
    outcome: str
    why: str = ""
    seconds: float = 0.0
    grown: int = 0


def corpus_of(kind: str, corpus: Path) -> list[Path]:
    """Return the sound files of a kind."""
    return sorted((corpus / "seeds" / kind).iterdir())


def chosen(kind: str, number: int, seed: int, corpus: Path) -> tuple[str, bytes]:
    """Return the name and the bytes of an input."""
    files = corpus_of(kind, corpus)
    file = files[number % len(files)]
    others = [other.read_bytes() for other in files]
    form = KINDS[kind].form
    if form == "gzip" and file.suffix != ".gz":
        form = "bytes"
    return file.name, drawn(kind, form, number, seed, file.read_bytes(), others)


def run(use: Use, kind: str, number: int, seed: int, corpus: Path, scratch: Path) -> Outcome:
    """Bring one input through the library."""
    name, content = chosen(kind, number, seed, corpus)
    place = Place(scratch / "home", scratch / "inbox", name, number)
    clean(place)
    found = Outcome(kind, number, "read")
    before = _reset_peak()
    most = _status("VmData") + MEMORY
    resource.setrlimit(resource.RLIMIT_DATA, (most, resource.RLIM_INFINITY))
    begun = time.monotonic()
    try:
        use(place, content)
    except MedxlateError as problem:
        found.outcome, found.why = "refused", str(problem)
        if len(found.why) > 4000:
            found.outcome, found.why = "failed", f"a message of {len(found.why)} characters"
        if memory := _out_of_memory(problem):
            found.outcome, found.why = "failed", memory
    except Exception:
        found.outcome, found.why = "failed", traceback.format_exc()[-3000:]
    found.seconds = time.monotonic() - begun
    resource.setrlimit(resource.RLIMIT_DATA, (resource.RLIM_INFINITY,) * 2)  # the next is made
    found.grown = max(0, _status("VmHWM") - before)
    if found.grown > MEMORY:
        found.outcome, found.why = "failed", f"it took {found.grown >> 20} MiB: {found.why}"
    return found


def _out_of_memory(problem: BaseException | None) -> str:
    """Say where memory ran out beneath a refusal: a check should have come before."""
    while problem is not None:
        if isinstance(problem, MemoryError):
            return "out of memory: " + "".join(traceback.format_exception(problem))[-2000:]
        problem = problem.__context__
    return ""


def _reset_peak() -> int:
    """Forget the highest memory so far; return what there is now, bytes."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _status(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(key)


def warm_up(kinds: Mapping[str, Kind], corpus: Path, scratch: Path) -> None:
    """Read every sound file once, so that libraries are loaded and their memory is taken."""
    for kind in kinds:
        for number, file in enumerate(corpus_of(kind, corpus)):
            for way in range(8) if kind == "dicom" and number == 0 else (number,):
                place = Place(scratch / "home", scratch / "inbox", file.name, way)
                clean(place)
                try:
                    kinds[kind].use(place, file.read_bytes())
                except MedxlateError as problem:
                    if os.environ.get("FUZZ_VERBOSE"):
                        print(kind, file.name, problem, file=sys.stderr)


def main() -> None:
    """Answer each line with the outcome of its input."""
    corpus, scratch = Path(sys.argv[1]), Path(sys.argv[2])
    kinds: Mapping[str, Kind] = importlib.import_module(sys.argv[3]).KINDS
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # nothing that a library prints gets among the answers
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    shutil.copytree(corpus / "home", scratch / "home", dirs_exist_ok=True)
    warm_up(kinds, corpus, scratch)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        kind, number, seed = line.split()
        found = run(kinds[kind].use, kind, int(number), int(seed), corpus, scratch)
        print(json.dumps(asdict(found)), file=answers, flush=True)


if __name__ == "__main__":
    main()
