"""``medxlate import``: a generator trained with other code becomes a model folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from medxlate._version import __version__
from medxlate.artifacts.cyclegan import Converted, convert
from medxlate.artifacts.folder import write_description, write_weights
from medxlate.artifacts.info import MARKER, ModelInfo, TranslatorInfo
from medxlate.artifacts.state_dicts import read_state_dict
from medxlate.base.errors import DataError, UsageError, nearest
from medxlate.base.events import Listener, Warned, silent
from medxlate.base.files import check_free, whole_folder
from medxlate.dataset.index import Dataset
from medxlate.images.modality import check_name
from medxlate.images.recipes import KINDS, Recipe, make_recipe

METHOD = "imported"
CARD = """# {source} to {target}, imported

Made by medxlate {version} from a checkpoint of the CycleGAN authors' code: {blocks} residual
blocks, width {width}, images of {size} x {size} px.{channel}

Use it with `medxlate translate IMAGES --model THIS_FOLDER`. It has no predictor. Its training data
are unknown: before you evaluate it, make sure that they did not include your test patients.

Translated images are synthetic and not for diagnosis.
"""

Window = str | tuple[float, float] | None


@dataclass(frozen=True)
class ImportResult:
    """The result of ``import_cyclegan``.

    Attributes:
        out: The model folder.
        width: Channels after the first convolution.
        blocks: Residual blocks.
        inputs: Channels of the images the checkpoint was trained on.
        outputs: Channels of the images it makes.
        channel: Which of several output channels was taken, from 0; None where there is only one.
        dropout: Whether it was trained with dropout, which is off in use.
    """

    out: Path
    width: int
    blocks: int
    inputs: int
    outputs: int
    channel: int | None
    dropout: bool


def import_cyclegan(
    checkpoint: Path | str,
    *,
    source: str,
    target: str,
    out: Path | str,
    data: Path | str | None = None,
    source_recipe: str | None = None,
    target_recipe: str | None = None,
    source_window: Window = None,
    target_window: Window = None,
    size: int | None = None,
    channel: int | None = None,
    overwrite: bool = False,
    listener: Listener = silent,
) -> ImportResult:
    """Convert a generator trained with the CycleGAN authors' code into a model folder.

    The result computes what the checkpoint's network computes of grey images (to the rounding of
    float32), without dropout. The checkpoint contains neither the meaning of pixel values nor the
    image size: recipes and size come from a dataset or are given.

    Args:
        checkpoint: A state dict, ``latest_net_G_A.pth`` say; no code in it is run.
        source: Name of the modality it translates from.
        target: Name of the modality it translates to.
        out: The model folder to write.
        data: A dataset with both modalities, whose recipes and size are taken.
        source_recipe: Without ``data``: the name of the source's intensity recipe.
        target_recipe: Without ``data``: the target's; of fixed range (ct, pet, as-is).
        source_window: Level and width of ``source_recipe`` ct or pet, or a window's name.
        target_window: Of ``target_recipe``.
        size: Side of the squares that the network sees, pixels; with ``data`` it may be left out.
        channel: Which channel of colour outputs is taken, from 0; None: green.
        overwrite: Whether an older model folder in ``out`` is replaced.
        listener: Receives notes on the channel and on dropout.

    Raises:
        ModelError: The checkpoint cannot be loaded, or is of another network.
        UsageError: Recipes, size or channel are missing or contradictory.
        DataError: The dataset is missing or lacks a modality.
        OutputError: ``out`` exists.
    """
    checkpoint, out = Path(checkpoint), Path(out)
    check_free(out, marker=MARKER, overwrite=overwrite)
    for name in (source, target):
        check_name(name)
    if source == target:
        raise UsageError(f"'{source}' is both source and target.")
    given = (source_recipe, target_recipe, source_window, target_window)
    if data is None:
        prepared, recipes = size, _recipes(source, target, *given)
    else:
        prepared, recipes = _of_dataset(Path(data), source, target, given)
    side = _side(size if size is not None else prepared)
    found = convert(read_state_dict(checkpoint), name=str(checkpoint), channel=channel)
    _tell(found, checkpoint, asked=channel is not None, listener=listener)
    with whole_folder(out, marker=MARKER, overwrite=overwrite) as partial:
        weights = write_weights(partial, f"translator-{source}.safetensors", found.state, step=0)
        translator = TranslatorInfo(
            recipe=recipes[0], width=found.width, blocks=found.blocks, weights=weights
        )
        info = ModelInfo(
            medxlate=__version__,
            method=METHOD,
            prepared_size=prepared or side,
            image_size=side,
            target=target,
            target_recipe=recipes[1],
            translators={source: translator},
            predictor=None,
        )
        write_description(partial, info, _card(info, source, found))
    return ImportResult(
        out,
        width=found.width,
        blocks=found.blocks,
        inputs=found.inputs,
        outputs=found.outputs,
        channel=found.channel,
        dropout=found.dropout,
    )


def _tell(found: Converted, checkpoint: Path, *, asked: bool, listener: Listener) -> None:
    """Say what the imported network does otherwise than the checkpoint's."""
    if found.channel is not None and not asked:
        listener(
            Warned(
                f"{checkpoint} makes colour images; using their green channel. To choose another, "
                "add --channel 0, 1 or 2."
            )
        )
    if found.dropout:
        listener(
            Warned(
                f"{checkpoint} was trained with dropout. medxlate turns it off, as the authors' "
                "test.py --eval does; without --eval their output is random."
            )
        )


def _side(size: int | None) -> int:
    if size is None:
        raise UsageError("The image size is unknown.", "Add --size or --data.")
    if size < 32 or size % 4:
        raise UsageError(f"--size {size} must be a multiple of 4, at least 32.")
    return size


def _of_dataset(
    folder: Path, source: str, target: str, given: tuple[object, ...]
) -> tuple[int, tuple[Recipe, Recipe]]:
    """Return a dataset's size and the recipes of two of its modalities."""
    if any(each is not None for each in given):
        raise UsageError("--data already defines the recipes.", "Give either --data or recipes.")
    info = Dataset(folder).info
    for name in (source, target):
        if name not in info.modalities:
            raise DataError(f"{folder} has no modality '{name}'.", nearest(name, info.modalities))
    source_recipe, target_recipe = (info.modalities[name].recipe for name in (source, target))
    return info.image_size, (source_recipe, target_recipe)


def _recipes(
    source: str,
    target: str,
    source_recipe: str | None,
    target_recipe: str | None,
    source_window: Window,
    target_window: Window,
) -> tuple[Recipe, Recipe]:
    """Return the recipes of source and target, by their names."""
    if source_recipe is None or target_recipe is None:
        raise UsageError(
            "The meaning of the pixel values is unknown.",
            "Add --source-recipe and --target-recipe, or a dataset with --data.",
        )
    if target_recipe in ("mr", "xray"):
        raise UsageError(
            f"The recipe {target_recipe} has no fixed range, so it cannot be used for translated "
            "images.",
            "Use --target-recipe as-is for grey values of 0 to 255, or give a dataset with --data.",
        )
    return (
        _recipe(source, source_recipe, source_window),
        _recipe(target, target_recipe, target_window),
    )


def _recipe(modality: str, kind: str, window: Window) -> Recipe:
    """Return a recipe with its range: the window, or grey values of 8 bits."""
    if kind not in KINDS:
        raise UsageError(f"Unknown recipe '{kind}'.", nearest(kind, KINDS))
    recipe = make_recipe(
        kind,
        modality=modality,
        guess="as-is",
        bits=8 if kind == "as-is" else 16,
        window=window,
    )
    low, high = 0.0, 255.0
    if recipe.window is not None:
        level, width = recipe.window
        low, high = level - width / 2, level + width / 2
    return recipe.model_copy(update={"output_range": (low, high)})


def _card(info: ModelInfo, source: str, found: Converted) -> str:
    channel = "" if found.channel is None else f" Channel {found.channel} of its output is used."
    return CARD.format(
        source=source,
        target=info.target,
        version=info.medxlate,
        blocks=found.blocks,
        width=found.width,
        size=info.image_size,
        channel=channel,
    )
