"""How options are declared, and those that several commands share, each written once.

Every option stands in a panel of the help, named after what a user thinks of. Its metavar is a
short word, so that the text has room at 80 columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medxlate.base.errors import UsageError, closest
from medxlate.cli import complete

if TYPE_CHECKING:
    from medxlate.base.plugins import Kind

INPUT = "Input"
LABELS = "Labels"
PATIENTS = "Patients"
INTENSITIES = "Intensities"
MODEL = "Model"
METRICS = "Metrics"
TRAINING = "Training"
COMPARED = "What is compared"
SPLIT = "Patients and splits"
RUN = "Run"
OUTPUT = "Output"
UPLOAD = "Upload"
HARDWARE = "Hardware"
MESSAGES = "Messages"

METHODS_HELP = (
    f"Training method: {', '.join(complete.PLAIN_METHODS)}. An augmentation can go on top of "
    "a method, as in joint+autoaugment."
)


def option(*names: str, panel: str, metavar: str, help: str, **more: Any) -> Any:  # noqa: A002
    """Declare an option that takes a value, which ``metavar`` stands for in the help."""
    return typer.Option(*names, metavar=metavar, help=help, rich_help_panel=panel, **more)


def flag(*names: str, panel: str, help: str, **more: Any) -> Any:  # noqa: A002
    """Declare an option that takes no value."""
    return typer.Option(*names, metavar="", help=help, rich_help_panel=panel, **more)


def choice(
    *names: str,
    words: Sequence[str],
    panel: str,
    metavar: str,
    help: str,  # noqa: A002
    is_open: bool = False,
    plugins: Kind | None = None,
) -> Any:
    """Declare an option whose value is one word of a set: the shell completes it.

    Args:
        names: The option's names.
        words: The set.
        panel: The panel of the help.
        metavar: What stands for the value.
        help: Says what the words are for; ``{words}`` is replaced by their list.
        is_open: Whether further words are possible: the library then checks them, not Typer.
        plugins: The kind of plug-ins that add words to a set that is open.
    """
    return option(
        *names,
        panel=panel,
        metavar=metavar,
        help=help.format(words=listed(words)),
        autocompletion=complete.and_plugins(words, plugins) if plugins else complete.of(words),
        **({} if is_open else {"parser": one_of(words)}),
    )


def one_of(words: Sequence[str]) -> Callable[[str], str]:
    """Return a parser that refuses every other word, with the list and the nearest word."""

    def parse(word: str) -> str:
        if word in words:
            return word
        near = closest(word, words)
        meant = f" Did you mean '{near}'?" if near else ""
        known = f"one of {', '.join(words)}" if len(words) > 1 else f"'{words[0]}'"
        raise typer.BadParameter(f"'{word}' is not {known}.{meant}")

    return parse


def listed(words: Sequence[str]) -> str:
    """Return words as a sentence lists them: a, b or c."""
    return f"{', '.join(words[:-1])} or {words[-1]}" if len(words) > 1 else words[0]


Json = Annotated[
    bool,
    flag(
        "--json",
        panel=MESSAGES,
        help="Print the result as JSON to stdout; messages go to stderr.",
    ),
]
Overwrite = Annotated[
    bool,
    flag("--overwrite", panel=OUTPUT, help="Replace what medxlate wrote there before."),
]
Data = Annotated[
    Path,
    option("--data", panel=OUTPUT, metavar="DIR", help="Dataset folder."),
]
DataOverride = Annotated[
    Path | None,
    option("--data", panel=INPUT, metavar="DIR", help="Dataset folder. Default: data."),
]
Runs = Annotated[
    Path,
    option("--runs", panel=RUN, metavar="DIR", help="Folder that holds all runs."),
]
Model = Annotated[
    Path,
    option(
        "--model",
        panel=MODEL,
        metavar="DIR",
        help="Run, model folder, or hf://OWNER/NAME@REVISION. runs/latest is the newest run.",
        autocompletion=complete.run_paths,
    ),
]
DEVICE = choice(
    "--device",
    words=complete.DEVICES,
    panel=HARDWARE,
    metavar="NAME",
    help="Where the networks run: auto, cpu, cuda, cuda:N (one of several GPUs, such as cuda:0) or "
    "mps.",
    is_open=True,
)
Device = Annotated[str, DEVICE]
DeviceOverride = Annotated[str | None, DEVICE]
PRECISION = choice(
    "--precision",
    words=complete.PRECISIONS,
    panel=HARDWARE,
    metavar="NAME",
    help="Arithmetic: fp32, bf16, or auto (bf16 where the hardware has it).",
)
Precision = Annotated[str, PRECISION]
PrecisionOverride = Annotated[str | None, PRECISION]
COMPILE = choice(
    "--compile",
    words=complete.COMPILING,
    panel=HARDWARE,
    metavar="NAME",
    help="Use torch.compile: on, off, or auto (on a GPU, where the work is long enough).",
)
Compile = Annotated[str, COMPILE]
CompileOverride = Annotated[str | None, COMPILE]
ConfigFile = Annotated[
    Path | None,
    option(
        "--config",
        panel=TRAINING,
        metavar="FILE",
        help="Configuration: a TOML file (`medxlate config init` writes one), or a run's "
        "config.json.",
    ),
]
Sets = Annotated[
    list[str] | None,
    option(
        "--set",
        panel=TRAINING,
        metavar="KEY=VALUE",
        help="Set any key of the configuration, such as optimizer.epochs=30 (`medxlate config "
        "show` lists them). Repeatable.",
    ),
]
Target = Annotated[
    str | None,
    option(
        "--target",
        panel=INPUT,
        metavar="MODALITY",
        help="Target modality: the one whose images the predictor reads.",
        autocompletion=complete.modalities,
    ),
]
Preset = Annotated[
    str | None,
    choice(
        "--preset",
        words=complete.PRESETS,
        panel=TRAINING,
        metavar="NAME",
        help="Start from a preset: paper (the paper's settings, 256 px), scarce (few target "
        "images; trains in minutes on a CPU), small (64 px, narrow networks) or debug (seconds). "
        "Default: the paper's settings with a safer weight of the predictor's loss.",
    ),
]
Offline = Annotated[
    bool,
    flag(
        "--offline",
        panel=HARDWARE,
        help="Open no network connection; missing weights are an error.",
    ),
]
Include = Annotated[
    list[str] | None,
    option(
        "--include",
        panel=INPUT,
        metavar="GLOB",
        help="Files to read, such as `*_T1w.nii.gz`. Repeatable. Default: all.",
    ),
]
Exclude = Annotated[
    list[str] | None,
    option(
        "--exclude",
        panel=INPUT,
        metavar="GLOB",
        help="Files to leave out, such as `*_mask*`. Repeatable.",
    ),
]
Where = Annotated[
    list[str] | None,
    option(
        "--where",
        panel=INPUT,
        metavar="EXPR",
        help="Use only the images for which this holds, such as 'age >= 18 and sex == \"F\"'. "
        "Repeatable: all must hold.",
    ),
]
Images = Annotated[
    Path | None,
    typer.Argument(
        metavar="IMAGES",
        help="Folder of images (searched recursively) or one image.",
        show_default=False,
    ),
]
Input = Annotated[
    Path | None,
    option(
        "--input", "-i", panel=INPUT, metavar="PATH", help="The images, instead of the argument."
    ),
]
BatchSize = Annotated[
    int | None,
    option(
        "--batch-size",
        panel=HARDWARE,
        metavar="N",
        min=1,
        help="Images computed at once. Default: what suits the device.",
    ),
]
DicomModality = Annotated[
    str,
    choice(
        "--dicom-modality",
        words=complete.DICOM_MODALITIES,
        panel=INPUT,
        metavar="CODE",
        help="Read only DICOM series of this Modality: {words}, or another DICOM code.",
        is_open=True,
    ),
]
Force = Annotated[
    bool,
    flag(
        "--force",
        panel=INPUT,
        help="Read DICOM files even if their Modality does not match the modality's name.",
    ),
]
Volume = Annotated[
    int | None,
    option(
        "--volume",
        panel=INPUT,
        metavar="N",
        min=0,
        help="Which volume of 4-D files to read, counted from 0.",
    ),
]


def images_of(argument: Path | None, option: Path | None) -> Path:
    """Return the images, which are named once: as the argument or by ``--input``."""
    if (argument is None) == (option is None):
        raise typer.BadParameter("Name the images once: as the argument IMAGES or with --input.")
    return argument or option  # type: ignore[return-value]


def window_of(text: str | None, option: str) -> str | tuple[float, float] | None:
    """Return the name of a window, or its level and width."""
    return text if text is not None and text[:1].isalpha() else pair(text, option)


def pair(text: str | None, option: str) -> tuple[float, float] | None:
    """Return the two numbers of an option such as 40,400."""
    if text is None:
        return None
    try:
        first, second = (float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"{option} {text} must be two numbers, as in {option} 40,400.") from None
    return first, second


def settings_of(words: list[str]) -> dict[str, Any]:
    """Return the settings KEY=VALUE of a plug-in; a value is a number, true, false or a word."""
    from medxlate.config import assignment

    found: dict[str, Any] = {}
    for word in words:
        found |= assignment(word)
    return found


def given_sections(**sections: dict[str, Any]) -> dict[str, Any]:
    """Return what the command line gives of the configuration, section by section."""
    given = {
        name: {key: value for key, value in values.items() if value not in (None, [])}
        for name, values in sections.items()
    }
    return {name: values for name, values in given.items() if values}
