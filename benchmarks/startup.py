"""What starting costs: commands on tiny inputs, beside importing torch.

    python -m benchmarks.startup                # 5 rounds
    python -m benchmarks.startup --rounds 1

Each command runs in a process of its own, in turns. Processor seconds are those of the process and
of the processes it starts, user and system; they depend less than wall time on what runs beside.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import facts
from benchmarks.prepare import write_series
from benchmarks.translate import smooth_noise, write_random_model, write_scan

SLICES, SIDE, FILES = 8, 64, 10
TORCH = 'python -c "import torch"'


def main() -> None:
    """Measure in turns, print the table and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="after one that does not count")
    parser.add_argument("--out", type=Path, help="where the figures go as JSON")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="medxlate-bench-") as name:
        commands = prepared(Path(name))
        taken: dict[str, list[tuple[float, float]]] = {each: [] for each in commands}
        for turn in range(arguments.rounds + 1):
            for shown, command in commands.items():
                seconds = measured(command, ok=not shown.endswith("refused"))
                if turn:
                    taken[shown].append(seconds)
    rows = {
        shown: {
            "processor_seconds": statistics.median(cpu for cpu, _ in each),
            "seconds": statistics.median(wall for _, wall in each),
        }
        for shown, each in taken.items()
    }
    show(rows)
    if arguments.out is not None:
        report = {"machine": facts(torch.device("cpu")), "commands": rows}
        arguments.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def prepared(root: Path) -> dict[str, Sequence[str]]:
    """Write a model and inputs; return the commands by how they are shown."""
    sizes = argparse.Namespace(width=8, blocks=2, side=SIDE)
    model = str(write_random_model(root, sizes))
    scan = root / "scan.nii.gz"
    write_scan(scan, smooth_noise(SLICES, SIDE))
    write_series(root / "series", FILES)
    tool = [sys.executable, "-m", "medxlate"]
    out = str(root / "out")
    use = ["--model", model, "--overwrite", "--device", "cpu"]
    return {
        TORCH: [sys.executable, "-c", "import torch"],
        "medxlate --help": [*tool, "--help"],
        f"translate a volume of {SLICES} slices": [
            *(*tool, "translate", str(scan), *use),
            *("--out", f"{out}/translated"),
        ],
        f"predict a volume of {SLICES} slices": [
            *(*tool, "predict", str(scan), *use),
            *("--out", f"{out}/predictions.csv"),
        ],
        f"prepare {FILES} DICOM files": [
            *(*tool, "prepare", str(root / "series"), "--overwrite"),
            *("--modality", "ct", "--label", "PatientAge", "--data", f"{out}/data"),
        ],
        "translate what is not there: refused": [
            *(*tool, "translate", str(root / "nothing.nii.gz"), *use),
            *("--out", f"{out}/nothing"),
        ],
    }


def measured(command: Sequence[str], *, ok: bool) -> tuple[float, float]:
    """Return the processor seconds and the seconds of a command and its processes."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    began = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment
    )
    assert process.stdout is not None
    said = process.stdout.read().decode(errors="replace")
    _, status, usage = os.wait4(process.pid, 0)
    if (os.waitstatus_to_exitcode(status) == 0) != ok:
        sys.exit(f"{' '.join(command)}: {said}")
    return usage.ru_utime + usage.ru_stime, time.perf_counter() - began


def show(rows: dict[str, dict[str, Any]]) -> None:
    """Print the table."""
    base = rows[TORCH]["processor_seconds"]
    print("| command | processor seconds | of importing torch | seconds |")
    print("|---|---|---|---|")
    for shown, row in rows.items():
        cpu = row["processor_seconds"]
        print(f"| `{shown}` | {cpu:.2f} | {cpu / base:.2f} | {row['seconds']:.2f} |")


if __name__ == "__main__":
    main()
