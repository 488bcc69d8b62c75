"""How fast and how large ``prepare`` is, beside a bare loop over the same files.

    python benchmarks/prepare.py                # 200 and 2,000 slices of 512 x 512, 2 processes
    python benchmarks/prepare.py --slices 400 --processes 4

Generated CT series are written first, uncompressed DICOM of 50 slices each, with headers of about
170 elements, as many as scanners write. The bare loop does nothing but ``pydicom.dcmread``,
``pixel_array`` and a Pillow resize to 256 x 256, spread over the same number of processes. Each
measurement runs in a process of its own, of which the peak resident memory is taken, and that of
its largest child. The two are run in turns, several times. A line a size gives the rate with the
start of the processes and all imports; the last line gives the rate between the smallest and the
largest size, in which neither counts.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

SIDE, SIZE, SERIES = 512, 256, 50
HU_OFFSET = 1024


def write_series(folder: Path, slices: int) -> None:
    """Write CT series of a noisy disc in air, in a folder a patient."""
    import numpy as np
    import pydicom

    from medxlate.images.dicom.tags import new_uid
    from medxlate.images.dicom.write import write_dicom

    y, x = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
    random = np.random.default_rng(0)
    for number in range(slices):
        patient, position = divmod(number, SERIES)
        body = np.hypot(x, y) < 0.6 + 0.2 * np.sin(position / 9)
        hu = np.where(body, 40, -1000) + random.normal(0, 20, (SIDE, SIDE))
        attributes = {
            "PatientID": f"P{patient:04d}",
            "PatientAge": f"{30 + patient % 50:03d}Y",
            "SeriesInstanceUID": new_uid("benchmark", str(patient)),
            "InstanceNumber": position + 1,
            "PixelSpacing": [0.7, 0.7],
            "SliceThickness": 2,
            "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
            "ImagePositionPatient": [-179, -179, position * 2],
            "RescaleSlope": 1,
            "RescaleIntercept": -HU_OFFSET,
            "RescaleType": "HU",
        }
        stored = np.clip(np.rint(hu) + HU_OFFSET, 0, 4095).astype(np.uint16)
        path = folder / f"P{patient:04d}" / f"{position:03d}.dcm"
        write_dicom(path, stored, modality="CT", attributes=attributes)
        header = pydicom.dcmread(path)
        block = header.private_block(0x0019, "MEDXLATE BENCHMARK", create=True)
        for element in range(170 - len(header)):
            block.add_new(element, "DS", f"{element}.25")
        header.save_as(path)


def bare(raw: Path, processes: int) -> int:
    """Read and shrink every file; return how many there were."""
    files = sorted(raw.rglob("*.dcm"))
    chunks = [files[start : start + 16] for start in range(0, len(files), 16)]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        return sum(pool.map(bare_chunk, chunks))


def bare_chunk(files: list[Path]) -> int:
    """Read and shrink some files."""
    import numpy as np
    import PIL.Image
    import pydicom

    for file in files:
        pixels = pydicom.dcmread(file).pixel_array
        image = PIL.Image.fromarray(pixels.astype(np.float32))
        image.resize((SIZE, SIZE), PIL.Image.Resampling.BILINEAR)
    return len(files)


def prepared(raw: Path, processes: int, data: Path) -> int:
    """Run ``prepare``; return how many slices it stored."""
    from medxlate.dataset.options import PrepareOptions
    from medxlate.dataset.prepare import prepare

    options = PrepareOptions(label="PatientAge", workers=processes)
    shutil.rmtree(data, ignore_errors=True)
    return prepare(raw, modality="ct", data=data, options=options, size=SIZE).images


def measure(what: str, raw: Path, processes: int) -> dict[str, float]:
    """Run one of the two in a process of its own."""
    command = [sys.executable, __file__, "--run", what, str(raw), "--processes", str(processes)]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return dict(json.loads(out.splitlines()[-1]))


def run(what: str, raw: Path, processes: int) -> None:
    """Time one of the two here and print the figures as JSON."""
    function = bare if what == "bare" else partial(prepared, data=raw.parent / "data")
    began = time.perf_counter()
    count = function(raw, processes)
    seconds = time.perf_counter() - began
    mib = {
        name: resource.getrusage(who).ru_maxrss / 1024
        for name, who in (("main", resource.RUSAGE_SELF), ("child", resource.RUSAGE_CHILDREN))
    }
    print(json.dumps({"rate": count / seconds, "seconds": seconds, **mib}))


def compare(slices: int, processes: int, repeats: int) -> dict[str, float]:
    """Measure both in turns, print a line each and return their median seconds."""
    with tempfile.TemporaryDirectory(prefix="medxlate-bench-") as name:
        raw = Path(name) / "raw"
        write_series(raw, slices)
        runs: dict[str, list[dict[str, float]]] = {"bare": [], "prepare": []}
        for _ in range(repeats):
            for what, measured in runs.items():
                measured.append(measure(what, raw, processes))
    for what, measured in runs.items():
        rate = statistics.median(each["rate"] for each in measured)
        main, child = (max(each[key] for each in measured) for key in ("main", "child"))
        print(
            f"{slices:6d} slices  {what:8s} {rate:7.1f} slices/s   peak memory: "
            f"{main:.0f} MiB, largest worker {child:.0f} MiB"
        )
    pairs = zip(runs["prepare"], runs["bare"], strict=True)
    ratios = sorted(ours["rate"] / theirs["rate"] for ours, theirs in pairs)
    shown = ", ".join(f"{ratio:.2f}" for ratio in ratios)
    print(f"{slices:6d} slices  prepare / bare: median {statistics.median(ratios):.2f} ({shown})")
    return {what: statistics.median(each["seconds"] for each in runs[what]) for what in runs}


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slices", type=int, nargs="+", default=[200, 2000])
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--run", nargs=2, metavar=("WHAT", "RAW"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        run(arguments.run[0], Path(arguments.run[1]), arguments.processes)
        return
    seconds = {
        slices: compare(slices, arguments.processes, arguments.repeats)
        for slices in sorted(arguments.slices)
    }
    few, many = min(seconds), max(seconds)
    if few < many:
        rates = {
            what: (many - few) / (seconds[many][what] - seconds[few][what])
            for what in ("bare", "prepare")
        }
        ratio = rates["prepare"] / rates["bare"]
        print(
            f"between {few} and {many} slices: bare {rates['bare']:.0f}, prepare "
            f"{rates['prepare']:.0f} slices/s, prepare / bare {ratio:.2f}"
        )


if __name__ == "__main__":
    main()
