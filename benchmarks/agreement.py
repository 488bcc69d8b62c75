"""FID, KID and IS beside torch-fidelity's, pytorch-fid's and clean-fid's, given equal weights.

    python -m benchmarks.agreement [--images 40] [--side 299] [--inception FILE] [--out FILE]

Two folders of generated grey PNGs, whose spectra differ, 299 px wide as Inception takes them, so
that no tool's way of resizing counts. Without a file of the published weights, all tools get the
same random ones. Every tool reads the PNGs itself: torch-fidelity by its own command, pytorch-fid
and clean-fid (mode ``legacy_pytorch``) by their functions, which cannot be given a file otherwise
than in place of their download. ``tests/evaluation/test_agreement.py`` does so with few
images.

torch-fidelity scales grey values to (x - 128) / 128, as the network was trained; the other two to
x / 127.5 - 1. They are asked twice: with the same file, and with ``folded`` weights, whose first
layer makes up for the difference, so that the network is the same function of the image.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

BATCH = 4
Folders = tuple[Path, Path]  # of fakes and of reals


def random_inception() -> dict[str, torch.Tensor]:
    """Return random weights under the published file's names.

    They are drawn as He et al. 2015 do, by which an image's differences reach the last layer;
    torch's own initial weights make them fade, and all images alike.
    """
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    with (  # the module reads a file when it is built
        mock.patch.object(torch.nn.Module, "load_state_dict", return_value=None),
        mock.patch.object(torch, "load", return_value={}),
    ):
        blank = FeatureExtractorInceptionV3("x", ["2048"], feature_extractor_weights_path="x")
    found = dict(blank.state_dict())
    for name, weight in found.items():
        if name.endswith("conv.weight"):
            torch.nn.init.kaiming_normal_(weight, nonlinearity="relu")
    torch.nn.init.normal_(found["fc.weight"], std=3)  # or all classes would be equally likely
    return found


def folded(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return weights that do with x / 127.5 - 1 what the given ones do with (x - 128) / 128.

    The first layer is a convolution without padding and bias, then batch norm: the scale goes into
    the one, the shift into the other's mean.
    """
    first = "Conv2d_1a_3x3"
    kernel, mean = (weights[f"{first}.{name}"] for name in ("conv.weight", "bn.running_mean"))
    return {
        **weights,
        f"{first}.conv.weight": kernel * 127.5 / 128,
        f"{first}.bn.running_mean": mean + 0.5 / 128 * kernel.sum(dim=(1, 2, 3)),
    }


def write_folders(root: Path, count: int, side: int) -> Folders:
    """Write fakes and reals, grey PNGs of noise that is smoothed by 6 and by 9 pixels."""
    import PIL.Image
    from scipy.ndimage import gaussian_filter

    random = np.random.default_rng(0)
    for name, width in (("fake", 6.0), ("real", 9.0)):
        (root / name).mkdir()
        for i in range(count):
            smooth = gaussian_filter(random.normal(size=(side, side)), width)
            pixels = np.clip(128 + 40 * smooth / smooth.std(), 0, 255).astype(np.uint8)
            PIL.Image.fromarray(pixels).convert("RGB").save(root / name / f"{i:04d}.png")
    return root / "fake", root / "real"


def by_medxlate(folders: Folders, weights: Path) -> dict[str, float]:
    """Take the figures as ``medxlate evaluate`` does."""
    import PIL.Image

    from medxlate.evaluation.features import extract, inception_extractor, open_store
    from medxlate.evaluation.fidelity import compare_features

    def batches(folder: Path) -> Iterator[torch.Tensor]:
        paths = sorted(folder.iterdir())
        for start in range(0, len(paths), BATCH):
            images = [np.asarray(PIL.Image.open(path)) for path in paths[start : start + BATCH]]
            yield torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)

    extractor, device = inception_extractor(weights), torch.device("cpu")
    with open_store(None, extractor, device) as store:
        sets = [extract(batches(folder), extractor, device, store) for folder in folders]
        return compare_features(
            *sets, ["fid", "kid", "is"], width=extractor.width, has_classes=extractor.has_classes
        )


def by_torch_fidelity(folders: Folders, weights: Path) -> dict[str, float]:
    """Take them by torch-fidelity's command; KID's subsets are as large as the smaller set."""
    count = min(len(list(folder.iterdir())) for folder in folders)
    command = [sys.executable, "-m", "torch_fidelity.fidelity"]
    command += ["--input1", folders[0], "--input2", folders[1], "--cpu", "--isc", "--fid", "--kid"]
    command += ["--kid-subset-size", min(count, 1000)]
    command += ["--feature-extractor-weights-path", weights, "--no-cache", "--json", "--silent"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    found = json.loads(done.stdout[done.stdout.index("{") :])
    return {
        "fid": found["frechet_inception_distance"],
        "kid": found["kernel_inception_distance_mean"],
        "is": found["inception_score_mean"],
    }


def by_pytorch_fid(folders: Folders, weights: Path) -> dict[str, float]:
    """Take FID by pytorch-fid, the weights in place of its download."""
    from pytorch_fid import fid_score, inception

    with _weights_for(inception, weights):
        return {
            "fid": float(
                fid_score.calculate_fid_given_paths(
                    [str(folder) for folder in folders], BATCH, torch.device("cpu"), 2048, 0
                )
            )
        }


def by_clean_fid(folders: Folders, weights: Path) -> dict[str, float]:
    """Take FID by clean-fid, in the mode that resizes as the others do, likewise."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from cleanfid import fid, inception_pytorch

    with _weights_for(inception_pytorch, weights):
        return {
            "fid": float(
                fid.compute_fid(
                    *(str(folder) for folder in folders),
                    mode="legacy_pytorch",
                    device=torch.device("cpu"),
                    num_workers=0,
                    batch_size=BATCH,
                    use_dataparallel=False,
                    verbose=False,
                )
            )
        }


@contextmanager
def _weights_for(module: Any, weights: Path) -> Iterator[None]:
    """Let the module's download be the file, and keep its warnings quiet."""
    read = mock.Mock(side_effect=lambda *_, **__: torch.load(weights))
    with mock.patch.object(module, "load_state_dict_from_url", read), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def compare(folders: Folders, weights: Path) -> dict[str, dict[str, float]]:
    """Return the figures of every tool; ``, folded``: with the weights that fit its scaling."""
    fitting = weights.with_name("folded.pth")
    torch.save(folded(torch.load(weights)), fitting)
    return {
        "medxlate": by_medxlate(folders, weights),
        "torch-fidelity": by_torch_fidelity(folders, weights),
        "pytorch-fid": by_pytorch_fid(folders, weights),
        "pytorch-fid, folded": by_pytorch_fid(folders, fitting),
        "clean-fid": by_clean_fid(folders, weights),
        "clean-fid, folded": by_clean_fid(folders, fitting),
    }


def main() -> None:
    """Print a table of all figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=40, help="in each folder")
    parser.add_argument("--side", type=int, default=299, help="of an image, in pixels")
    parser.add_argument("--inception", type=Path, help="published weights; without: random ones")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--quick", action="store_true", help="10 images")
    options = parser.parse_args()
    count = 10 if options.quick else options.images
    with tempfile.TemporaryDirectory(prefix="medxlate-bench-") as name:
        root = Path(name)
        torch.manual_seed(0)
        known = torch.load(options.inception) if options.inception else random_inception()
        torch.save(known, root / "weights.pth")
        found = compare(write_folders(root, count, options.side), root / "weights.pth")
    ours = found["medxlate"]
    print(f"| 2 x {count} images of {options.side} px | FID | KID | IS |\n|---|---|---|---|")
    for tool, figures in found.items():
        cells = [_cell(figures.get(key), ours[key]) for key in ("fid", "kid", "is")]
        print(f"| {tool} | {' | '.join(cells)} |")
    if options.out:
        described = {"images": count, "side": options.side, **found}
        options.out.write_text(json.dumps(described, indent=2) + "\n")


def _cell(value: float | None, ours: float) -> str:
    return "" if value is None else f"{value:.7g} ({abs(ours / value - 1):.0e})"


if __name__ == "__main__":
    main()
