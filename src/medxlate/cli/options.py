"""Options that several commands share, each written once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from medxlate.base.errors import UsageError
from medxlate.cli import complete

Json = Annotated[
    bool, typer.Option("--json", help="Print the result as JSON on stdout; messages on stderr.")
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace what medxlate wrote there before.")
]
Data = Annotated[Path, typer.Option("--data", help="The dataset folder.", show_default=True)]
DataOverride = Annotated[
    Path | None, typer.Option("--data", help="The dataset folder. Default: data.")
]
Runs = Annotated[Path, typer.Option("--runs", help="The folder of all runs.", show_default=True)]
Model = Annotated[
    Path,
    typer.Option(
        "--model",
        help="A model folder, a run, the newest run, or hf://OWNER/NAME@REVISION.",
        autocompletion=complete.run_paths,
    ),
]
Device = Annotated[
    str,
    typer.Option(
        "--device", help="auto, cpu, cuda, cuda:N or mps.", autocompletion=complete.devices
    ),
]
DeviceOverride = Annotated[
    str | None,
    typer.Option(
        "--device", help="auto, cpu, cuda, cuda:N or mps.", autocompletion=complete.devices
    ),
]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="TOML file, or a run's config.json.")
]
Target = Annotated[
    str | None,
    typer.Option("--target", help="Target modality.", autocompletion=complete.modalities),
]
Preset = Annotated[
    str | None,
    typer.Option(
        "--preset",
        help="paper (256 px), scarce (few target images; minutes on a CPU), small (64 px) or "
        "debug (seconds).",
        autocompletion=complete.presets,
    ),
]
Precision = Annotated[str, typer.Option("--precision", help="auto, fp32 or bf16.")]
Offline = Annotated[
    bool, typer.Option("--offline", help="Open no connection; missing weights are an error.")
]
Exclude = Annotated[
    list[str] | None,
    typer.Option("--exclude", help="Glob of file names to leave out, such as `*_mask*`; repeat."),
]
Where = Annotated[
    list[str] | None,
    typer.Option(
        "--where",
        help="Take only images for which this holds, such as 'age >= 18 and sex == \"F\"'; repeat: "
        "all must hold.",
    ),
]
Images = Annotated[
    Path | None,
    typer.Argument(
        help="Folder of images (searched recursively) or one image.", show_default=False
    ),
]
Input = Annotated[
    Path | None, typer.Option("--input", "-i", help="The images, in place of the argument.")
]
BatchSize = Annotated[
    int | None,
    typer.Option("--batch-size", min=1, help="Images computed at once; default: by the device."),
]
DicomModality = Annotated[
    str, typer.Option("--dicom-modality", help="Take only DICOM of this Modality: CT, MR, PT...")
]
Force = Annotated[
    bool,
    typer.Option(
        "--force", help="Read DICOM although its Modality disagrees with the modality's name."
    ),
]
Volume = Annotated[
    int | None, typer.Option("--volume", min=0, help="Which volume of 4-D files, from 0.")
]


def images_of(argument: Path | None, option: Path | None) -> Path:
    """Return the images, which are named once: as the argument or by ``--input``."""
    if (argument is None) == (option is None):
        raise typer.BadParameter("name the images once, as IMAGES or with -i.")
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
