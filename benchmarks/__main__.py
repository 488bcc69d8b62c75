"""All benchmarks, one after the other, each in a process of its own.

    python -m benchmarks                  # about 40 minutes on two cores
    python -m benchmarks --quick          # a few minutes: do they run?
    python -m benchmarks training fid     # some of them

Figures go as JSON to ``--out``, what was printed to the files beside them.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TINY = ["--image-size", "32", "--blocks", "1", "--width", "8", "--predictor", "test_resnet"]

# The arguments of each, and those of its quick form.
ALL: dict[str, tuple[list[str], list[str]]] = {
    "training": (["--precision", "auto", "fp32"], [*TINY, "--steps", "2", "--compile", "off"]),
    "translate": ([], ["--quick"]),
    "fid": ([], ["--quick"]),
    "scaling": (["--plot", "{out}/scaling.png"], ["--quick"]),
    "accuracy": ([], ["--seeds", "2", "--steps", "10"]),
}


def main() -> int:
    """Run the benchmarks that were named; return how many failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help=", ".join(ALL))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("bench-out"))
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(ALL):
        parser.error(f"there is no benchmark {', '.join(sorted(unknown))}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    out = arguments.out.resolve()
    failed = 0
    for name in arguments.names or ALL:
        options = [each.format(out=out) for each in ALL[name][arguments.quick]]
        command = [sys.executable, "-m", f"benchmarks.{name}", *options]
        print(f"== {' '.join(command[1:])}", flush=True)
        began = time.monotonic()
        printed = out / f"{name}.txt"
        with printed.open("w", encoding="utf-8") as stream:
            code = subprocess.run(
                [*command, "--out", str(out / f"{name}.json")], stdout=stream, cwd=ROOT
            ).returncode
        print(printed.read_text(encoding="utf-8"))
        print(f"({time.monotonic() - began:.0f} s, exit {code})", flush=True)
        failed += code != 0
    return failed


if __name__ == "__main__":
    sys.exit(main())
