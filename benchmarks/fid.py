"""What ``medxlate evaluate --metric fid`` costs beside its networks, and how that grows.

    python benchmarks/fid.py                    # 1,000, 5,000 and 20,000 images of each kind
    python benchmarks/fid.py --quick            # 200 and 400
    python benchmarks/fid.py --json fid.json

A dataset of generated 256 x 256 slices and a run are written to a temporary folder and removed.
The command runs in a process of its own, from its start to its end, with imports, reading,
hashing, keeping the features, statistics and distance. In place of the networks stand a translator
that turns grey values round and 2,048 features that are means over patches; the time in both is
taken off. ``again`` is the same command once more, when all features are kept. Memory is the peak
resident memory of the process (VmHWM); on a build of torch for CUDA, loading its libraries
alone takes several hundred MiB of that, and what the imports alone take is measured as well.

Then the statistics and the distance alone, from the same 2 x 5,000 features in memory: medxlate's,
torch-fidelity's (eigenvalues of the product as it is) and those of pytorch-fid (scipy's sqrtm),
each in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

SIDE, WIDTH = 256, 2048
ROUTES = ("medxlate", "torch-fidelity", "sqrtm")
SMALL_SET = 64  # training and validation slices of each modality
PEOPLE = 50  # test patients of each modality


def write_project(
    root: Path,
    images: int,
    *,
    train: int = SMALL_SET,
    predictor: str = "test_resnet",
    width: int = 8,
    blocks: int = 1,
) -> None:
    """Write a dataset of noise and the folder of a run on it, with random weights.

    Args:
        root: ``root/data`` and ``root/run`` are written.
        images: Test slices of each modality.
        train: Training slices of each.
        predictor: Its name in timm.
        width: Of the generator.
        blocks: Of the generator.
    """
    import pandas as pd
    import torch

    from medxlate.artifacts.folder import write_model, write_weights
    from medxlate.artifacts.info import ModelInfo, PredictorInfo, TranslatorInfo
    from medxlate.base.files import write_json
    from medxlate.config import resolve
    from medxlate.dataset.index import Dataset, DatasetInfo, ModalityInfo
    from medxlate.dataset.labels import Task
    from medxlate.dataset.shards import ShardWriter
    from medxlate.dataset.slice_table import HASH_DIGITS
    from medxlate.dataset.splits import Split
    from medxlate.images.recipes import Recipe
    from medxlate.method.generator import Generator
    from medxlate.method.label_transform import LabelTransform
    from medxlate.method.predictor import PredictorNetwork

    recipe = Recipe(kind="as-is", bits=8, output_range=(0.0, 255.0))
    task = Task(kind="regression", name="age", unit="years")
    modalities: dict[str, ModalityInfo] = {}
    rows = images + train + SMALL_SET
    patients = ["train"] * train + ["val"] * SMALL_SET
    patients += [f"test{row % PEOPLE}" for row in range(images)]
    for number, name in enumerate(("mri", "ct")):
        random = np.random.default_rng(number)
        folder = root / "data" / name
        places = []
        with ShardWriter(folder / "shards", size=SIDE, dtype=np.uint8) as shards:
            for _ in range(rows):
                places.append(shards.append(random.bytes(SIDE * SIDE)))
        table = pd.DataFrame(places, columns=["shard", "row"])
        table["slice_id"] = [f"{row:06d}" for row in range(rows)]
        table["patient"] = [f"{each}-{name}" for each in patients]
        table["label"] = np.linspace(20.0, 80.0, rows)
        table["file"] = table["pixel_hash"] = [f"{name}-{row}" for row in range(rows)]
        table["perceptual_hash"] = [random.bytes(HASH_DIGITS // 2).hex() for _ in range(rows)]
        table["series"], table["position"] = np.arange(rows), 0
        table["height"] = table["width"] = SIDE
        table.to_parquet(folder / "slices.parquet", index=False)
        modalities[name] = info = ModalityInfo(
            recipe=recipe, images=rows, series=rows, patients=3, widths=(SIDE, SIDE),
            heights=(SIDE, SIDE), labels={"min": 20.0, "max": 80.0},
        )  # fmt: skip
        write_json(folder / "modality.json", info.model_dump(mode="json"))
    described = DatasetInfo(medxlate="0", image_size=SIDE, task=task, modalities=modalities)
    write_json(root / "data" / "dataset.json", described.model_dump(mode="json"))
    dataset = Dataset(root / "data")
    fingerprints = {name: dataset.modality(name).fingerprint() for name in modalities}
    data = {"folder": str(root / "data"), "sources": ["mri"], "target": "ct"}
    config = resolve(preset="debug", overrides={"data": {**data, "image_size": SIDE}})
    write_json(root / "run" / "config.json", config.model_dump(mode="json"))
    people = {"train": ["train"], "val": ["val"], "test": [f"test{i}" for i in range(PEOPLE)]}
    parts = {k: tuple(f"{p}-{m}" for m in ("ct", "mri") for p in v) for k, v in people.items()}
    split = Split(parts, seed=0)  # type: ignore[arg-type]
    write_json(root / "run" / "split.json", {**split.to_json(), "slices": fingerprints})
    torch.manual_seed(0)
    head = LabelTransform(task=task, mean=50, std=10)
    networks = {
        "predictor.safetensors": PredictorNetwork(architecture=predictor, outputs=1),
        "translator-mri.safetensors": Generator(width=width, blocks=blocks),
    }
    weights = [
        write_weights(root / "run", name, network.state_dict(), step=0)
        for name, network in networks.items()
    ]
    translator = TranslatorInfo(recipe=recipe, width=width, blocks=blocks, weights=weights[1])
    model = ModelInfo(
        medxlate="0", method="joint", prepared_size=SIDE, image_size=SIDE, target="ct",
        target_recipe=recipe,
        translators={"mri": translator},
        predictor=PredictorInfo(architecture=predictor, head=head, weights=weights[0]),
    )  # fmt: skip
    write_model(root / "run" / "model", model, weights_from=root / "run", card="# Benchmark\n")


def patch_features(images: Any) -> Any:
    """Return means over 2,048 patches of uint8 images [B, 3, S, S]."""
    from torch.nn.functional import adaptive_avg_pool2d

    return adaptive_avg_pool2d(images[:, :1].float(), (32, WIDTH // 32)).flatten(1)


def run_evaluate(root: Path) -> dict[str, float]:
    """Run the command here with networks that cost next to nothing, and time those."""
    from torch import nn

    from medxlate.cli.app import app
    from medxlate.evaluation import subject, translation
    from medxlate.evaluation.features import Extractor

    imported = peak_mib()
    spent = {"networks": 0.0}

    def timed(call: Any) -> Any:
        def timing(*args: Any, **keywords: Any) -> Any:
            began = time.perf_counter()
            outputs = call(*args, **keywords)
            spent["networks"] += time.perf_counter() - began
            return outputs

        return timing

    class Negative(nn.Module):
        def forward(self, images: Any) -> Any:
            return images * -0.9

    class CheapTranslator(subject.Translator):
        def __init__(self, *args: Any, **keywords: Any) -> None:
            super().__init__(*args, **keywords)
            self.network = Negative()

    subject.Translator = CheapTranslator
    subject.run_network = timed(subject.run_network)
    cheap = Extractor("patches", Negative(), timed(patch_features), WIDTH, has_classes=False)
    translation.find_extractors = lambda *_, **__: ([cheap], {})
    command = ["evaluate", "--run", str(root / "run"), "--metric", "fid", "--device", "cpu"]
    app([*command, "--json"], standalone_mode=False)
    return {"networks_s": spent["networks"], "mib": peak_mib(), "imports_mib": imported}


def run_route(route: str, images: int) -> dict[str, float]:
    """Take the distance of generated features by one of ROUTES."""
    random = np.random.default_rng(0)
    scales = np.geomspace(0.05, 1, WIDTH, dtype=np.float32)
    sets = [
        random.standard_normal((images, WIDTH), dtype=np.float32) * scales + shift
        for shift in (0.5, 0.52)
    ]
    before = peak_mib()
    if route == "medxlate":
        from medxlate.evaluation.fidelity import frechet_distance, gaussian

        began = time.perf_counter()
        value = frechet_distance(*(gaussian(rows, WIDTH) for rows in sets))
    elif route == "torch-fidelity":
        import torch
        from torch_fidelity import metric_fid as theirs

        before = peak_mib()
        began = time.perf_counter()
        found = [theirs.fid_features_to_statistics(torch.from_numpy(rows)) for rows in sets]
        value = theirs.fid_statistics_to_metric(*found, verbose=False)[theirs.KEY_METRIC_FID]
    else:
        from scipy.linalg import sqrtm

        began = time.perf_counter()
        (m1, s1), (m2, s2) = (
            (rows.mean(axis=0, dtype=np.float64), np.cov(rows, rowvar=False)) for rows in sets
        )
        trace = np.trace(sqrtm(s1 @ s2).real)
        value = float((m1 - m2) @ (m1 - m2) + np.trace(s1) + np.trace(s2) - 2 * trace)
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "added_mib": peak_mib() - before, "fid": float(value)}


def peak_mib() -> float:
    """Return this process's peak resident memory."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def child(*words: object) -> dict[str, float]:
    """Run this script in a new process and return its figures, with its whole time."""
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, __file__, *map(str, words)], capture_output=True, text=True
    )
    wall = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(done.stderr)
    return {"wall_s": wall, **json.loads(done.stdout.splitlines()[-1])}


def median(runs: list[dict[str, float]]) -> dict[str, float]:
    """Return the medians of the figures."""
    return {key: round(statistics.median(run[key] for run in runs), 6) for key in runs[0]}


def measure_size(images: int, repeats: int) -> dict[str, Any]:
    """Measure the command on so many images, with nothing kept and with all kept."""
    import shutil

    with tempfile.TemporaryDirectory(prefix="medxlate-bench-") as name:
        root = Path(name)
        write_project(root, images)
        child("--evaluate", root)  # the files are in the page cache from here on
        runs: dict[str, list[dict[str, float]]] = {"first": [], "again": []}
        for _ in range(repeats):
            shutil.rmtree(root / "data" / ".features")
            for what in runs:
                runs[what].append(child("--evaluate", root))
    found: dict[str, Any] = {"images": images}
    for what, measured in runs.items():
        for run in measured:
            run["beside_networks_s"] = run["wall_s"] - run["networks_s"]
        found[what] = median(measured)
        print(
            f"2 x {images:6d} images, {what:5s}: {found[what]['beside_networks_s']:6.2f} s beside "
            f"networks ({found[what]['networks_s']:.2f} s), peak {found[what]['mib']:.0f} MiB, of "
            f"which imports {found[what]['imports_mib']:.0f}",
            flush=True,
        )
    return found


def machine() -> dict[str, Any]:
    """Return what the figures were taken on."""
    import scipy
    import torch
    import torch_fidelity

    info = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in info if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "torch_fidelity": torch_fidelity.__version__,
        "load": round(os.getloadavg()[0], 2),
    }


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, nargs="+", default=[1000, 5000, 20000])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="200 and 400 images, once")
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--evaluate", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--route", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.evaluate:
        print(json.dumps(run_evaluate(options.evaluate)))
        return
    if options.route:
        print(json.dumps(run_route(options.route[0], int(options.route[1]))))
        return
    sizes, repeats = ([200, 400], 1) if options.quick else (options.images, options.repeats)
    found: dict[str, Any] = {"machine": machine(), "repeats": repeats}
    found["evaluate"] = [measure_size(images, repeats) for images in sizes]
    compared = 400 if options.quick else 5000
    routes: dict[str, list[dict[str, float]]] = {route: [] for route in ROUTES}
    for _ in range(repeats):
        for route, measured in routes.items():
            measured.append(child("--route", route, compared))
    found["distance"] = {"images": compared, **{key: median(runs) for key, runs in routes.items()}}
    for route in ROUTES:
        figures = found["distance"][route]
        print(
            f"distance of 2 x {compared} features, {route:14s}: {figures['seconds']:6.2f} s, "
            f"{figures['added_mib']:5.0f} MiB added, FID {figures['fid']:.9f}"
        )
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
