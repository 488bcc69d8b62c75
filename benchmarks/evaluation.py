"""How long a whole evaluation, its audits and the report take: the paper's networks on noise.

    python -m benchmarks.evaluation [--test 200] [--train 1000] [--precision bf16] [--out FILE]

A dataset of noise, 256 x 256, 50 test patients of each modality; the networks have random weights.
``medxlate evaluate`` and ``medxlate report`` run in processes of their own, start included.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.fid import write_project


def measure(test: int, train: int, *, precision: str, quick: bool) -> dict[str, Any]:
    """Return seconds of the two commands and of the evaluation's stages, and the page's size."""
    small = {"predictor": "test_resnet", "width": 8, "blocks": 1}
    networks = small if quick else {"predictor": "resnet50", "width": 64, "blocks": 9}
    with tempfile.TemporaryDirectory(prefix="medxlate-bench-") as name:
        root = Path(name)
        write_project(root, test, train=train, **networks)  # type: ignore[arg-type]
        run = root / "run"
        device = ["--device", "cpu", "--precision", precision]
        found: dict[str, Any] = {"test": test, "train": train}
        found["evaluate_s"] = timed("evaluate", "--run", str(run), *device)
        found["report_s"] = timed("report", str(run))
        found["report_mib"] = (run / "report.html").stat().st_size / 2**20
        kept = json.loads((run / "evaluation" / "evaluation.json").read_text())
        return {**found, "stages_s": kept["seconds"]}


def timed(*words: str) -> float:
    """Return the seconds that a command takes."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "medxlate", *words, "--json"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return round(time.perf_counter() - began, 2)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--test", type=int, default=200, help="test images of each modality")
    parser.add_argument("--train", type=int, default=1000, help="training images of each")
    parser.add_argument("--precision", default="bf16", help="fp32 without bf16 instructions")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    sizes = (20, 20) if options.quick else (options.test, options.train)
    found = measure(
        *sizes, precision="auto" if options.quick else options.precision, quick=options.quick
    )
    print(json.dumps({"machine": platform.platform(), **found}, indent=2))
    if options.out:
        options.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
