"""``medxlate translate``: a folder of source images becomes a folder of target images."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import medxlate
from medxlate.errors import UsageError
from medxlate.events import Listener, Progress, Stage, silent
from medxlate.files import check_free, whole_folder, write_json
from medxlate.images.find import SUFFIXES, FoundImage
from medxlate.images.geometry import from_square
from medxlate.images.image import FloatArray
from medxlate.images.write import write_synthetic
from medxlate.inference.engine import run
from medxlate.inference.inputs import Input, Reader, find_inputs, refuse_if_nothing, stack
from medxlate.models.device import Compute, choose_compute
from medxlate.models.folder import ModelInfo, load_generator, read_model
from medxlate.models.runs import find_model

SCHEMA_VERSION = 1
MARKER = "translation.json"


@dataclass(frozen=True)
class TranslateResult:
    """What ``translate`` did.

    Attributes:
        out: The folder that was written.
        images: How many images it holds.
        failed: Files that could not be translated, and why.
        seconds: How long it took.
    """

    out: Path
    images: int
    failed: dict[str, str]
    seconds: float


class Translator:
    """A trained generator with everything needed to use it.

    Args:
        model: A model folder, a run folder, or ``runs/latest``.
        source: The source modality; needed where the model has several.
        compute: Device and precision; None: chosen automatically.

    Raises:
        ModelError: The model is missing, damaged or cannot translate.
    """

    def __init__(
        self, model: Path, *, source: str | None = None, compute: Compute | None = None
    ) -> None:
        folder = find_model(model)
        self.info: ModelInfo = read_model(folder)
        self.compute = compute or choose_compute()
        self.source, network = load_generator(folder, self.info, source)
        self.network = network.to(self.compute.device)
        self.reader = Reader(
            self.info.translators[self.source].recipe,
            self.info.prepared_size,
            self.info.image_size,
        )

    @classmethod
    def load(cls, model: Path | str, *, source: str | None = None) -> Translator:
        """Load a translator from a model folder, a run folder or ``runs/latest``."""
        return cls(Path(model), source=source)

    def translate(self, batch: list[Input]) -> list[FloatArray]:
        """Return target images in [-1, 1], each of its input's original height and width."""
        fakes = run(self.network, [stack(batch)], compute=self.compute).numpy()
        return [
            from_square(fake[0], item.height, item.width)
            for fake, item in zip(fakes, batch, strict=True)
        ]


def translate(
    inputs: Path | str,
    *,
    out: Path | str,
    model: Path | str = "runs/latest",
    source: str | None = None,
    exclude: Sequence[str] = (),
    device: str = "auto",
    precision: str = "auto",
    batch_size: int = 8,
    overwrite: bool = False,
    listener: Listener = silent,
) -> TranslateResult:
    """Translate every image below a folder to the target modality.

    The tree is kept: one output per input, of the same size and stem; TIFF stays TIFF, everything
    else becomes PNG, 16-bit where the target modality has more than 8. Each output is marked as
    synthetic, and ``translation.json`` says what came from what.

    Args:
        inputs: Folder, searched recursively, or one image.
        out: The folder to write; it must not exist, or be empty.
        model: A model folder, a run folder or ``runs/latest``.
        source: The source modality; needed where the model has several.
        exclude: Glob patterns of file names to leave out.
        device: auto, cpu, cuda, cuda:N or mps.
        precision: auto, fp32 or bf16.
        batch_size: Images computed at once.
        overwrite: Whether an older translation in ``out`` is replaced.
        listener: Told of progress.

    Raises:
        OutputError: ``out`` cannot be written.
        ModelError: The model cannot be used.
        ImageError: No image could be read.
    """
    began = time.monotonic()
    inputs, out = Path(inputs), Path(out)
    check_free(out, marker=MARKER, overwrite=overwrite)
    here, there = inputs.resolve(), out.resolve()
    if there.is_relative_to(here) or here.is_relative_to(there):
        raise UsageError(f"{out} and {inputs} overlap.", "Write the result somewhere else.")
    translator = Translator(Path(model), source=source, compute=choose_compute(device, precision))
    images, failed = find_inputs(inputs, exclude)
    names = output_names(images)
    info = translator.info
    listener(Stage(f"Translating {len(images)} {translator.source} images to {info.target}"))
    files: list[dict[str, Any]] = []
    with whole_folder(out, marker=MARKER, overwrite=overwrite) as partial:
        listener(Progress("images", 0, len(images)))
        for batch in translator.reader.batches(images, batch_size=batch_size, failed=failed):
            for item, fake in zip(batch, translator.translate(batch), strict=True):
                name = names[item.found.relative]
                facts = {
                    "from": translator.source,
                    "to": info.target,
                    "generator": info.translators[translator.source].weights.sha256,
                }
                write_synthetic(partial / name, fake, recipe=info.target_recipe, facts=facts)
                files.append({"input": item.found.relative, "output": name})
            listener(Progress("images", len(files), len(images)))
        refuse_if_nothing(failed, len(files), inputs)
        write_json(partial / MARKER, _record(translator, files, failed))
    return TranslateResult(out, len(files), failed, round(time.monotonic() - began, 3))


def output_names(images: Sequence[FoundImage]) -> dict[str, str]:
    """Return the output's relative path for each input's: same tree, same stem, no name twice.

    Only an image's suffix is taken off. Where two names would differ in nothing, or in upper and
    lower case alone (a.png beside a.jpg), both keep the whole of theirs: a.png.png, a.jpg.png.
    """
    suffixes = {image.relative: ".tif" if image.format == "tiff" else ".png" for image in images}
    whole = {relative: relative + suffix for relative, suffix in suffixes.items()}
    names = {
        relative: PurePosixPath(relative).with_suffix(suffix).as_posix()
        if PurePosixPath(relative).suffix.lower() in SUFFIXES
        else whole[relative]
        for relative, suffix in suffixes.items()
    }
    while True:
        counts = Counter(name.lower() for name in names.values())
        twice = [r for r, n in names.items() if counts[n.lower()] > 1 and n != whole[r]]
        if not twice:
            return names
        names |= {relative: whole[relative] for relative in twice}


def _record(
    translator: Translator, files: list[dict[str, Any]], failed: dict[str, str]
) -> dict[str, Any]:
    info = translator.info
    return {
        "schema_version": SCHEMA_VERSION,
        "synthetic": True,
        "note": "Images made by a neural network. Not for diagnosis.",
        "medxlate": medxlate.__version__,
        "source": translator.source,
        "target": info.target,
        "unit": info.target_recipe.unit,
        "generator_sha256": info.translators[translator.source].weights.sha256,
        "files": files,
        "failed": failed,
    }
