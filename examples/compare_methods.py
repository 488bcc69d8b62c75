"""A small study from Python: does translation help on this dataset? Half a minute on a processor.

Run ``python examples/compare_methods.py DATA OUT TARGET``; DATA is a dataset of ``prepare``.
Preset ``debug`` is far too small for an answer; take ``small`` or ``paper`` for one.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import medxlate
from medxlate.config import resolve
from medxlate.study.begin import Grid


def main(data: Path, out: Path, target: str, preset: str = "debug") -> None:
    """Train three methods on two splits and print what came out."""
    config = resolve(preset=preset, overrides={"data": {"folder": str(data), "target": target}})
    grid = Grid(methods=("constant", "target-only", "joint"), repeats=2)
    study = medxlate.compare(config, grid, out=out)
    print(f"{study.cells} cells, {len(study.failed)} failed, {study.seconds:.0f} s")

    statistics = json.loads((out / "statistics.json").read_text(encoding="utf-8"))
    for comparison in statistics["against_target_only"]:
        print(comparison["system"], comparison["verdict"], comparison["interval"])


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
