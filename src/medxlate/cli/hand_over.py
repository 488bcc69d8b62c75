"""``medxlate export nnunet|monai``: the rest of the group that ``cli.export`` begins."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from medxlate.base.errors import UsageError
from medxlate.cli import complete
from medxlate.cli.command import Command
from medxlate.cli.export import Out
from medxlate.cli.export import export as export
from medxlate.cli.loudness import takes_loudness
from medxlate.cli.options import (
    INPUT,
    LABELS,
    OUTPUT,
    PATIENTS,
    Exclude,
    Json,
    Overwrite,
    Volume,
    choice,
    flag,
    option,
)

Folders = Annotated[
    list[Path],
    typer.Argument(
        metavar="FOLDERS",
        help="Folders of images: what `translate` wrote, and real ones.",
        show_default=False,
    ),
]
Masks = Annotated[
    list[Path] | None,
    option(
        "--masks",
        panel=LABELS,
        metavar="DIR",
        help="Segmentations of the images, or of the images they were translated from: one folder "
        "for all, or one for each, in order. Repeatable.",
    ),
]
Class = Annotated[
    list[str] | None,
    option(
        "--class",
        panel=LABELS,
        metavar="NAME=VALUE",
        help="A class and its value in the masks. Repeatable. Default: all values.",
    ),
]
SkipUnmasked = Annotated[
    bool, flag("--skip-unmasked", panel=LABELS, help="Leave out images without a mask.")
]
SplitOf = Annotated[
    Path | None,
    option(
        "--run",
        panel=PATIENTS,
        metavar="DIR",
        help="A run whose split is kept. Its dataset gives patients and labels.",
        autocompletion=complete.run_paths,
    ),
]
PatientRule = Annotated[
    str | None,
    option(
        "--patient",
        panel=PATIENTS,
        metavar="RULE",
        help="Where patient IDs come from: folder:N (the Nth folder of the path), regex:PATTERN, "
        "tag:KEYWORD or file (each file is a patient); for MONAI also a column of --labels. "
        "Default: DICOM header or BIDS.",
    ),
]
VolumeFrom = Annotated[
    str | None,
    option(
        "--volume-from",
        panel=INPUT,
        metavar="RULE",
        help="Which pictures are the slices of one volume: folder (all in one folder), folder:N "
        "(all below the Nth folder of the path) or regex:PATTERN.",
    ),
]
Channel = Annotated[
    int | None,
    option(
        "--channel",
        panel=INPUT,
        metavar="N",
        min=0,
        help="Which channel of colour images to read, counted from 0.",
    ),
]
Key = Annotated[
    Path | None,
    option(
        "--key",
        panel=PATIENTS,
        metavar="FILE",
        help="The dataset's pseudonym.key with which translated DICOM was pseudonymised.",
    ),
]
Seed = Annotated[
    int, option("--seed", panel=PATIENTS, metavar="N", help="Random seed for the folds.")
]


@export.command("nnunet", cls=Command)
@takes_loudness
def nnunet(
    folders: Folders,
    *,
    masks: Masks = None,
    test: Annotated[
        list[Path] | None,
        option(
            "--test",
            panel=INPUT,
            metavar="DIR",
            help="Folder of further images, for imagesTs. Repeatable.",
        ),
    ] = None,
    modality: Annotated[
        str,
        option(
            "--modality",
            panel=INPUT,
            metavar="NAME",
            help="Name of the channel. Default: the modality that was translated to.",
        ),
    ] = "",
    class_: Class = None,
    skip_unmasked: SkipUnmasked = False,
    run: SplitOf = None,
    patient: PatientRule = None,
    key: Key = None,
    volume_from: VolumeFrom = None,
    channel: Channel = None,
    volume: Volume = None,
    exclude: Exclude = None,
    seed: Seed = 0,
    out: Annotated[
        Path,
        option(
            "--out",
            "-o",
            panel=OUTPUT,
            metavar="DIR",
            help="Folder to write, named as nnU-Net requires: .../Dataset501_NAME.",
        ),
    ],
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    r"""Export translated and real images with their masks as a raw data set of nnU-Net v2.

    Cases are numbered, and no header holds a patient's data. splits_final.json keeps a patient's
    images together and validates on real ones: copy it to nnUNet_preprocessed/Dataset501_CT.

    ```
    # Translated and real CT, each with its masks
    $ medxlate export nnunet fake_ct ct --masks mri_masks --masks ct_masks \
        --out Dataset501_CT
    ```
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
            f"{made.training['synthetic']} synthetic and {made.training['real']} real cases for "
            f"training, {made.testing} for testing, in {made.out}. Classes: {classes}.",
            *_judges(made.left_out),
        )


@export.command("monai", cls=Command)
@takes_loudness
def monai(
    folders: Folders,
    *,
    masks: Masks = None,
    class_: Class = None,
    skip_unmasked: SkipUnmasked = False,
    run: SplitOf = None,
    labels: Annotated[
        Path | None,
        option("--labels", panel=LABELS, metavar="FILE", help="Label table, as for `prepare`."),
    ] = None,
    label: Annotated[
        str | None,
        option(
            "--label",
            panel=LABELS,
            metavar="COLUMN",
            help="The label: a column of --labels, or a DICOM tag.",
        ),
    ] = None,
    file: Annotated[
        str | None,
        option(
            "--file",
            panel=LABELS,
            metavar="COLUMN",
            help="Column of the table that names the images.",
        ),
    ] = None,
    patient: PatientRule = None,
    patient_column: Annotated[
        str | None,
        option(
            "--patient-column",
            panel=PATIENTS,
            metavar="COLUMN",
            help="Column of patient IDs in the label table.",
        ),
    ] = None,
    task: Annotated[
        str,
        choice(
            "--task",
            words=complete.TASKS,
            panel=LABELS,
            metavar="KIND",
            help="What is predicted: a number (regression) or a class (classification).",
        ),
    ] = "regression",
    key: Key = None,
    volume_from: VolumeFrom = None,
    channel: Channel = None,
    volume: Volume = None,
    exclude: Exclude = None,
    seed: Seed = 0,
    out: Out,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    r"""Export translated and real images as NIfTI, with labels, masks and a datalist for MONAI.

    datalist.json lists training and validation images; each entry says whether the image is
    synthetic or real. Patients are divided as in the run. Translated images are used for training
    only, if there are real ones.

    ```
    # Patients, labels and split of the newest run
    $ medxlate export monai fake_ct ct --run runs/latest --out monai

    # With masks and a label table
    $ medxlate export monai fake_ct --masks mri_masks --out monai \
        --labels ages.csv --label age --file name --patient folder:1
    ```
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
    return [
        f"{left_out} synthetic images were left out: real images of their patients are used for "
        "validation."
    ]


def classes_of(texts: list[str] | None) -> dict[str, float]:
    """Return the value of each class from NAME=VALUE."""
    found: dict[str, float] = {}
    for text in texts or ():
        name, sign, value = text.rpartition("=")
        if not sign or not name or not value.isdecimal() or value == "0" or name in found:
            raise UsageError(
                f"--class {text} must be NAME=VALUE, a whole number above 0, each name once.",
                "Write it as --class tumour=1.",
            )
        found[name] = float(value)
    return found
