"""Run the benchmarks one after the other, each in a process of its own.

    python -m benchmarks all --out bench-out            # everything, an hour or two on 2 cores
    python -m benchmarks training fid --out bench-out
    python -m benchmarks all --quick                    # do they run? the figures mean nothing

What each prints goes to ``OUT/NAME.txt`` as well, its figures to ``OUT/NAME.json``.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# Options for the whole and for the quick run; {out} is the folder.
BENCHMARKS = {
    "training": (
        "--memory --precision auto fp32 --out {out}/training.json",
        "--image-size 64 --blocks 1 --width 8 --predictor test_resnet --steps 2 --warm 1 "
        "--compile off --out {out}/training.json",
    ),
    "translate": ("--out {out}/translate.json", "--quick --out {out}/translate.json"),
    "loading": ("--out {out}/loading.json", "--quick --out {out}/loading.json"),
    "prepare": ("", "--slices 60 --repeats 1"),
    "startup": ("--out {out}/startup.json", "--rounds 1 --out {out}/startup.json"),
    "fid": ("--json {out}/fid.json", "--quick --json {out}/fid.json"),
    "agreement": ("--out {out}/agreement.json", "--quick --out {out}/agreement.json"),
    "evaluation": ("--out {out}/evaluation.json", "--quick --out {out}/evaluation.json"),
    "coverage": ("", "--simulations 2"),
    "power": ("--out {out}/power.json", "--simulations 20 --out {out}/power.json"),
    "scaling": (
        "--json {out}/scaling.json --plot {out}/scaling.png",
        "--quick --json {out}/scaling.json --plot {out}/scaling.png",
    ),
    "scarce": ("phantoms --out {out}/scarce", "phantoms --quick --out {out}/scarce"),
    "robust": ("--out {out}/robust.json", "--quick --out {out}/robust.json"),
    "accuracy": ("--out {out}/accuracy.json", "--seeds 1 --steps 5 --out {out}/accuracy.json"),
}


def run(name: str, out: Path, *, quick: bool) -> int:
    """Run one, showing what it prints and keeping it; return its exit status."""
    options = BENCHMARKS[name][quick].format(out=out).split()
    command = [sys.executable, "-u", "-m", f"benchmarks.{name}", *options]
    print(f"\n== {' '.join(command[3:])}", flush=True)
    paths = [str(ROOT / "src"), str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    began = time.monotonic()
    with (out / f"{name}.txt").open("w", encoding="utf-8") as kept:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            kept.write(line)
    code = process.wait()
    print(f"== {name}: exit {code} after {time.monotonic() - began:.0f} s", flush=True)
    return code


def main() -> None:
    """Parse the command line and run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="+", choices=["all", *BENCHMARKS])
    parser.add_argument("--out", type=Path, default=Path("bench-out"))
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    names = list(BENCHMARKS) if "all" in arguments.names else list(dict.fromkeys(arguments.names))
    out = arguments.out.resolve()
    failed = [name for name in names if run(name, out, quick=arguments.quick)]
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
