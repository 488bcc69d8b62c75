"""What a slice costs as datasets grow, and how long a training takes to begin.

    python benchmarks/scaling.py --json scaling.json --plot docs/scaling.png
    python benchmarks/scaling.py --quick

Synthetic datasets of 1,000 to 200,000 slices of 64 x 64 pixels (uint16, two modalities) are written
to a temporary folder and removed afterwards. Of each: the cost of a slice that goes through a whole
epoch of the feed, all of it streamed, without any training; then joint training steps with narrow
networks, of which reading is a larger share than of real ones: pairs a second, the share of time
spent waiting for data, and the peak resident memory. The steps are a sample, so many at every size:
the same for all, for an epoch of 200,000 slices takes hours on a processor.

The start is everything that ``train`` does before it builds the networks, with an index of a
million rows and shards that are sparse files; imports do not count. ``prepare`` has searched for
near duplicates, as always; the links that it keeps are written with the dataset.

Each measurement runs in a process of its own, ``--repeats`` times, sizes in turns; medians
are told.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SIDE = 64
SIZES = (1_000, 5_000, 20_000, 50_000, 200_000)
ROWS = 1_000_000  # of the index at the start
PER_PATIENT = 20
BLOCK = 256  # different images
BATCH = 4


def write_scaled(folder: Path, *, slices: int, size: int = SIDE, sparse: bool = False) -> Path:
    """Write a dataset of the modalities mri and ct, half of the slices each, without ``prepare``.

    Args:
        folder: Where it goes.
        slices: How many, in both modalities.
        size: Side of the images, pixels.
        sparse: Whether the shards are files of zeros that take no room on the disk.
    """
    from medxlate.dataset.index import DatasetInfo, ModalityInfo, fingerprint
    from medxlate.dataset.labels import Task
    from medxlate.dataset.links import save_links
    from medxlate.images.recipes import Recipe

    infos, prints = {}, {}
    for number, name in enumerate(("mri", "ct")):
        count = slices // 2
        write_shards(folder / name / "shards", count, size, sparse=sparse)
        table = random_table(name, count, size, seed=number)
        table.to_parquet(folder / name / "slices.parquet", index=False)
        info = ModalityInfo(
            recipe=Recipe(kind="as-is"),
            images=count,
            series=table["series"].nunique(),
            patients=table["patient"].nunique(),
            widths=(512, 512),
            heights=(512, 512),
            labels={},
        )
        infos[name], prints[name] = info, fingerprint(info.recipe, table)
        save_links(folder / name, name, prints, dict.fromkeys(prints, ()))
        (folder / name / "modality.json").write_text(info.model_dump_json())
    task = Task(kind="regression", name="age", unit="years")
    dataset = DatasetInfo(medxlate="0", image_size=size, task=task, modalities=infos)
    (folder / "dataset.json").write_text(dataset.model_dump_json())
    return folder


def write_shards(folder: Path, count: int, size: int, *, sparse: bool) -> None:
    """Write shards of noise, or of nothing."""
    import numpy as np

    from medxlate.dataset.shards import SHARD_BYTES

    folder.mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 65536, (BLOCK, size, size), dtype=np.uint16)
    most = SHARD_BYTES // noise[0].nbytes
    for number, start in enumerate(range(0, count, most)):
        rows = min(most, count - start)
        with (folder / f"{number:05d}.npy").open("wb") as stream:
            shape = {"descr": "<u2", "fortran_order": False, "shape": (rows, size, size)}
            np.lib.format.write_array_header_1_0(stream, shape)
            if sparse:
                stream.truncate(stream.tell() + rows * noise[0].nbytes)
            else:
                for first in range(0, rows, BLOCK):
                    stream.write(noise[: min(BLOCK, rows - first)].tobytes())


def random_table(name: str, count: int, size: int, *, seed: int) -> Any:
    """Return a table as ``prepare`` writes it, every image another."""
    import numpy as np
    import pandas as pd

    from medxlate.dataset.shards import SHARD_BYTES

    random = np.random.default_rng(seed)
    number = np.arange(count)
    patient, position = np.divmod(number, PER_PATIENT)
    shard, row = np.divmod(number, SHARD_BYTES // (2 * size**2))
    pixels, perceptual = (random.bytes(half * count).hex() for half in (16, 64))
    return pd.DataFrame(
        {
            "slice_id": [f"{i:06d}" for i in number],
            "shard": shard,
            "row": row,
            "patient": [f"p{name}{i:012x}" for i in patient],
            "label": random.uniform(20, 90, count),
            "file": [f"patient{i:06d}/{n:04d}.dcm" for i, n in zip(patient, position, strict=True)],
            "series": patient,
            "position": position,
            "height": 512,
            "width": 512,
            "pixel_hash": [pixels[32 * i : 32 * i + 32] for i in number],
            "perceptual_hash": [perceptual[128 * i : 128 * i + 128] for i in number],
        }
    )


def config_of(data: Path) -> Any:
    """Return the configuration of a small joint training on the processor."""
    from medxlate.config import resolve

    values = {
        "data": {"folder": str(data), "sources": ["mri"], "target": "ct", "image_size": SIDE},
        "optimizer": {"batch_size": BATCH},
        "runtime": {"device": "cpu"},
    }
    return resolve(preset="debug", overrides=values)


def begin(data: Path) -> tuple[Any, dict[str, float]]:
    """Do what ``train`` does until it builds networks; return the data and seconds by part."""
    from medxlate.dataset.division import draw_split
    from medxlate.dataset.index import Dataset
    from medxlate.dataset.links import find_links
    from medxlate.dataset.loading import Order
    from medxlate.dataset.training_data import make_data, open_modalities

    config = config_of(data)
    times = [time.perf_counter()]
    dataset = Dataset(data)
    tables = open_modalities(dataset, config)
    times.append(time.perf_counter())
    prints = {name: modality.fingerprint() for name, modality in tables.items()}
    times.append(time.perf_counter())
    slices = {name: modality.slices for name, modality in tables.items()}
    links = find_links(tables, config.split.policy)
    split = draw_split(slices, target="ct", config=config.split, links=links)
    times.append(time.perf_counter())
    made = make_data(dataset, tables, split, config)
    for name, some in made.train.items():
        Order(len(some), seed=0, name=name).take(0, BATCH)
    times.append(time.perf_counter())
    json.dumps({**split.to_json(), "slices": prints})
    times.append(time.perf_counter())
    parts = ("open", "fingerprint", "split", "slices", "record")
    spent = {name: b - a for name, a, b in zip(parts, times[:-1], times[1:], strict=True)}
    return made, spent | {"total": times[-1] - times[0]}


def measure_start(data: Path, _: int) -> dict[str, float]:
    """Time the start; imports and a first use of pyarrow come before."""
    import pyarrow.parquet  # noqa: F401

    import medxlate.training.train  # noqa: F401

    before = peak_mib()
    _, spent = begin(data)
    return {**spent, "peak_mib": peak_mib(), "imports_mib": before}


def measure_feed(data: Path, _: int) -> dict[str, float]:
    """Time a whole epoch of the feed with everything streamed."""
    import torch

    from medxlate.training.loader import TrainLoader

    made, _ = begin(data)
    steps = max(len(some) for some in made.train.values()) // BATCH
    options = {"batch_size": BATCH, "seed": 0, "device": torch.device("cpu"), "room": 0}
    with TrainLoader(made.train, **options) as feed:
        feed.take(0)
        began = time.perf_counter()
        for step in range(1, steps):
            feed.take(step)
        seconds = time.perf_counter() - began
    taken = (steps - 1) * BATCH * len(made.train)
    return {"us_per_slice": 1e6 * seconds / taken, "feed_peak_mib": peak_mib()}


def measure_train(data: Path, steps: int) -> dict[str, float]:
    """Time joint steps, the feed as a training uses it."""
    from medxlate.dataset.division import draw_split
    from medxlate.dataset.index import Dataset
    from medxlate.dataset.links import find_links
    from medxlate.dataset.training_data import open_modalities
    from medxlate.training.loader import TrainLoader
    from medxlate.training.setup import RunInputs, set_up
    from medxlate.training.step import take_step

    config = config_of(data)
    dataset = Dataset(data)
    tables = open_modalities(dataset, config)
    slices = {name: modality.slices for name, modality in tables.items()}
    links = find_links(tables, config.split.policy)
    split = draw_split(slices, target="ct", config=config.split, links=links)
    work = set_up(RunInputs(config, dataset, tables, split))
    warm_up, waited, began = 3, 0.0, 0.0
    options = {"batch_size": BATCH, "seed": 0, "device": work.compute.device}
    with TrainLoader(work.data.train, **options) as feed:
        for step in range(warm_up + steps):
            asked = time.perf_counter()
            if step == warm_up:
                waited, began = 0.0, asked
            batches = feed.take(step)
            waited += time.perf_counter() - asked
            take_step(work.learner, batches)
        seconds = time.perf_counter() - began
    return {
        "pairs_per_second": steps * BATCH / seconds,
        "data_wait": waited / seconds,
        "train_peak_mib": peak_mib(),
    }


MEASURES = {"start": measure_start, "feed": measure_feed, "train": measure_train}


def peak_mib() -> float:
    """Return the highest resident memory of this process, MiB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def measure(what: str, data: Path, steps: int) -> dict[str, float]:
    """Measure in a process of its own."""
    command = [sys.executable, __file__, "--run", what, str(data), "--steps", str(steps)]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return dict(json.loads(out.splitlines()[-1]))


def median(runs: list[dict[str, float]]) -> dict[str, float]:
    """Return the median of each figure."""
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def measure_all(sizes: tuple[int, ...], rows: int, steps: int, repeats: int) -> dict[str, Any]:
    """Write the datasets, measure them in turns and remove them."""
    with tempfile.TemporaryDirectory(prefix="medxlate-bench-") as name:
        root = Path(name)
        folders = {size: write_scaled(root / str(size), slices=size) for size in sizes}
        runs: dict[int, list[dict[str, float]]] = {size: [] for size in sizes}
        for _ in range(repeats):
            for size, folder in folders.items():
                found = {**measure("feed", folder, steps), **measure("train", folder, steps)}
                runs[size].append(found)
        large = write_scaled(root / "index", slices=rows, sparse=True)
        starts = [measure("start", large, steps) for _ in range(repeats)]
    found = [{"slices": size, **median(each)} for size, each in runs.items()]
    return {"machine": machine(), "sizes": found, "start": {"rows": rows, **median(starts)}}


def machine() -> dict[str, Any]:
    """Say what it was measured on."""
    import pandas
    import torch

    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "pandas": pandas.__version__,
    }


def processor() -> str:
    """Return the processor's name where Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((x.partition(": ")[2] for x in lines if x.startswith("model name")), "")


def show(found: dict[str, Any]) -> None:
    """Print the figures."""
    print("  slices  feed us/slice  pairs/s  data wait  peak MiB (feed, training)")
    for row in found["sizes"]:
        print(
            f"{row['slices']:8d}  {row['us_per_slice']:13.1f}  {row['pairs_per_second']:7.2f}  "
            f"{row['data_wait']:9.2%}  {row['feed_peak_mib']:.0f}, {row['train_peak_mib']:.0f}"
        )
    start = found["start"]
    parts = ", ".join(
        f"{name} {start[name]:.2f}" for name in ("open", "fingerprint", "split", "slices", "record")
    )
    print(f"start with {start['rows']} rows: {start['total']:.2f} s ({parts})")
    print(f"peak memory {start['peak_mib']:.0f} MiB, {start['imports_mib']:.0f} of it imports")


def plot(found: dict[str, Any], path: Path) -> None:
    """Draw cost, waiting and memory over the number of slices."""
    from matplotlib.figure import Figure

    rows = found["sizes"]
    slices = [row["slices"] for row in rows]
    panels = {
        "a slice through the feed [µs]": {"us_per_slice": 1.0},
        "a pair in training [ms]": {"pairs_per_second": 1000.0},
        "waiting for data [% of training]": {"data_wait": 100.0},
        "peak memory in training [MiB]": {"train_peak_mib": 1.0},
    }
    figure = Figure(figsize=(11, 2.8), layout="constrained")
    for axes, (title, ((name, factor),)) in zip(
        figure.subplots(1, len(panels)),
        ((title, tuple(each.items())) for title, each in panels.items()),
        strict=True,
    ):
        inverse = name == "pairs_per_second"
        values = [factor / row[name] if inverse else factor * row[name] for row in rows]
        axes.plot(slices, values, "o-")
        axes.set(xscale="log", xlabel="slices in the dataset", ylim=(0, 1.3 * max(values) or 1))
        axes.set_title(title, fontsize=9)
    figure.savefig(path, dpi=150)


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes, once")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=10, help="joint steps at each size")
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--plot", type=Path, help="where the figure goes, a PNG")
    parser.add_argument("--run", nargs=2, metavar=("WHAT", "DATA"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.run:
        print(json.dumps(MEASURES[given.run[0]](Path(given.run[1]), given.steps)))
        return
    if given.quick:
        found = measure_all((1_000, 5_000), 100_000, 5, 1)
    else:
        found = measure_all(SIZES, ROWS, given.steps, given.repeats)
    show(found)
    if given.json:
        given.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    if given.plot:
        plot(found, given.plot)


if __name__ == "__main__":
    main()
