"""``medxlate export nnunet|monai``: the rest of the group that ``cli.export`` begins."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from medxlate.base.errors import UsageError
from medxlate.cli import complete
from medxlate.cli.export import Out
from medxlate.cli.export import export as export
from medxlate.cli.loudness import takes_loudness
from medxlate.cli.options import Exclude, Json, Overwrite, Volume

Folders = Annotated[
    list[Path],
    typer.Argument(help="What `translate` wrote, and folders of real images.", show_default=False),
]
Masks = Annotated[
    list[Path] | None,
    typer.Option(
        "--masks",
        help="Segmentations of the images, or of what they were translated from: one folder for "
        "all, or one for each, in order.",
    ),
]
Class = Annotated[
    list[str] | None,
    typer.Option("--class", help="NAME=VALUE in the masks; repeat. Default: all values."),
]
SkipUnmasked = Annotated[
    bool, typer.Option("--skip-unmasked", help="Leave out images without a mask.")
]
SplitOf = Annotated[
    Path | None,
    typer.Option(
        "--run",
        help="A run whose split is kept; its dataset says patients and labels.",
        autocompletion=complete.run_paths,
    ),
]
VolumeFrom = Annotated[
    str | None,
    typer.Option(
        "--volume-from",
        help="Pictures that are slices of one volume: folder (those in one folder), folder:N or "
        "regex:PATTERN.",
    ),
]
Channel = Annotated[
    int | None, typer.Option("--channel", min=0, help="Channel of colour pictures, from 0.")
]
Key = Annotated[
    Path | None,
    typer.Option("--key", help="A dataset's pseudonym.key, by which translated DICOM was named."),
]
Seed = Annotated[int, typer.Option("--seed", help="Draws the folds.")]


@export.command("nnunet")
@takes_loudness
def nnunet(
    folders: Folders,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The folder to write: .../Dataset501_NAME.")
    ],
    masks: Masks = None,
    test: Annotated[
        list[Path] | None,
        typer.Option("--test", help="Folder of further images, for imagesTs; repeat."),
    ] = None,
    modality: Annotated[
        str,
        typer.Option("--modality", help="The channel's name. Default: what was translated to."),
    ] = "",
    class_: Class = None,
    skip_unmasked: SkipUnmasked = False,
    run: SplitOf = None,
    patient: Annotated[
        str | None,
        typer.Option(
            "--patient",
            help="What tells patients apart: folder:N, regex:PATTERN, tag:KEYWORD or file. "
            "Default: header or BIDS.",
        ),
    ] = None,
    key: Key = None,
    volume_from: VolumeFrom = None,
    channel: Channel = None,
    volume: Volume = None,
    exclude: Exclude = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Write translated and real images with their masks as a raw data set of nnU-Net v2.

    `medxlate export nnunet fake_ct ct --masks mri_masks --masks ct_masks --out Dataset501_CT`

    Cases are numbered, and no header holds a patient's data. splits_final.json keeps a patient's
    images together and validates with real ones; copy it to nnUNet_preprocessed/Dataset501_CT.
    """
    from medxlate.cli.console import reporting

    with reporting(json=json) as reporter:
        from medxlate.export.nnunet import export_nnunet

        made = export_nnunet(
            folders,
            out=out,
            masks=masks or (),
            test=test or (),
            modality=modality,
            classes=classes_of(class_),
            skip_unmasked=skip_unmasked,
            run=run,
            patient=patient,
            key=key,
            volume_from=volume_from,
            channel=channel,
            volume=volume,
            exclude=exclude or (),
            seed=seed,
            overwrite=overwrite,
            listener=reporter,
        )
        classes = ", ".join(f"{name} {number}" for name, number in made.classes.items())
        reporter.result(
            {**asdict(made), "out": str(made.out)},
            f"{made.training['synthetic']} synthetic and {made.training['real']} real cases to "
            f"train with, {made.testing} to test with, in {made.out}. Classes: {classes}.",
            *_judges(made.left_out),
        )


@export.command("monai")
@takes_loudness
def monai(
    folders: Folders,
    out: Out,
    masks: Masks = None,
    class_: Class = None,
    skip_unmasked: SkipUnmasked = False,
    run: SplitOf = None,
    labels: Annotated[
        Path | None, typer.Option("--labels", help="Label table, as for `prepare`.")
    ] = None,
    label: Annotated[
        str | None, typer.Option("--label", help="Column or DICOM tag of the label.")
    ] = None,
    file: Annotated[
        str | None, typer.Option("--file", help="The table's column of file names.")
    ] = None,
    patient: Annotated[
        str | None,
        typer.Option(
            "--patient",
            help="What tells patients apart, as for `prepare`: column, folder:N, regex:PATTERN, "
            "tag:KEYWORD or file. Default: header or BIDS.",
        ),
    ] = None,
    patient_column: Annotated[
        str | None,
        typer.Option("--patient-column", help="The table's column of patients."),
    ] = None,
    task: Annotated[
        str, typer.Option("--task", help="regression or classification.")
    ] = "regression",
    key: Key = None,
    volume_from: VolumeFrom = None,
    channel: Channel = None,
    volume: Volume = None,
    exclude: Exclude = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Write translated and real images as NIfTI, with labels, masks and a datalist for MONAI.

    `medxlate export monai fake_ct ct --run runs/latest --out monai`

    `medxlate export monai fake_ct --masks mri_masks --labels ages.csv --label age --file name
    --patient folder:1 --out monai`

    datalist.json lists training and validation; each entry says whether it is synthetic or real.
    Patients are divided, as the run divides them; translated images only train where there are
    real ones.
    """
    from medxlate.cli.console import reporting

    with reporting(json=json) as reporter:
        from medxlate.export.datalist import export_monai

        made = export_monai(
            folders,
            out=out,
            masks=masks or (),
            classes=classes_of(class_),
            skip_unmasked=skip_unmasked,
            run=run,
            labels=labels,
            label=label,
            file=file,
            patient=patient,
            patient_column=patient_column,
            task=task,
            key=key,
            volume_from=volume_from,
            channel=channel,
            volume=volume,
            exclude=exclude or (),
            seed=seed,
            overwrite=overwrite,
            listener=reporter,
        )
        lists = [
            f"{name}: {', '.join(f'{count} {origin}' for origin, count in counts.items())}."
            for name, counts in made.images.items()
        ]
        shown = f"label is {made.label}" if made.label else "without labels"
        reporter.result(
            {**asdict(made), "out": str(made.out), "datalist": str(made.datalist)},
            f"{made.datalist}, {shown}.",
            *lists,
            *_judges(made.left_out),
        )


def _judges(left_out: int) -> list[str]:
    if not left_out:
        return []
    return [f"{left_out} synthetic images are left out: real ones judge in their patients' place."]


def classes_of(texts: list[str] | None) -> dict[str, float]:
    """Return the value of each class from NAME=VALUE."""
    found: dict[str, float] = {}
    for text in texts or ():
        name, sign, value = text.rpartition("=")
        if not sign or not name or not value.isdecimal() or value == "0" or name in found:
            raise UsageError(
                f"--class {text} must be NAME=VALUE, a whole number above 0, each name once.",
                "Such as --class tumour=1.",
            )
        found[name] = float(value)
    return found
