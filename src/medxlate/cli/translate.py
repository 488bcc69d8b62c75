"""``medxlate translate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from medxlate.cli import complete
from medxlate.cli.options import (
    HARDWARE,
    MODEL,
    OUTPUT,
    BatchSize,
    Compile,
    Device,
    DicomModality,
    Exclude,
    Force,
    Images,
    Include,
    Input,
    Json,
    Model,
    Overwrite,
    Precision,
    Volume,
    choice,
    flag,
    images_of,
    option,
)

Phi = Literal["keep", "pseudonymise", "remove"]


def translate(
    images: Images = None,
    *,
    input_: Input = None,
    include: Include = None,
    exclude: Exclude = None,
    dicom_modality: DicomModality = "",
    force: Force = False,
    volume: Volume = None,
    model: Model = Path("runs/latest"),
    source: Annotated[
        str | None,
        option(
            "--source",
            panel=MODEL,
            metavar="MODALITY",
            help="Modality of the images, if the model has several sources.",
            autocompletion=complete.modalities,
        ),
    ] = None,
    out: Annotated[
        Path, option("--out", "-o", panel=OUTPUT, metavar="DIR", help="Folder to write.")
    ],
    phi: Annotated[
        Phi,
        choice(
            "--phi",
            words=complete.PHI,
            panel=OUTPUT,
            metavar="POLICY",
            help="What happens to patients' attributes in DICOM output: {words}.",
        ),
    ] = "pseudonymise",
    key: Annotated[
        Path | None,
        option(
            "--key",
            panel=OUTPUT,
            metavar="FILE",
            help="A dataset's pseudonym.key, so that patients get the same pseudonyms as there.",
        ),
    ] = None,
    bids: Annotated[
        bool | None,
        flag(
            "--bids/--no-bids",
            panel=OUTPUT,
            help="Write a BIDS derivative data set. Default: yes, if IMAGES has a "
            "dataset_description.json.",
        ),
    ] = None,
    bids_suffix: Annotated[
        str,
        option(
            "--bids-suffix",
            panel=OUTPUT,
            metavar="TEXT",
            help="What BIDS calls the target: T1w, FLAIR, pet, ct...",
        ),
    ] = "",
    overwrite: Overwrite = False,
    device: Device = "auto",
    batch_size: BatchSize = None,
    tile: Annotated[
        int,
        option(
            "--tile",
            panel=HARDWARE,
            metavar="N",
            min=0,
            help="Side of overlapping tiles, in pixels. 0: tiles are used only if memory runs out.",
        ),
    ] = 0,
    precision: Precision = "auto",
    compiling: Compile = "auto",
    json: Json = False,
) -> None:
    """Translate images to the target modality, in the same tree, format and geometry.

    Takes one model: the mean of several translations would be a blurred image that no model made.
    `predict` combines several models.

    ```
    # A folder, with the newest run
    $ medxlate translate scans/mri --out fake_ct

    # One file, with a named run
    $ medxlate translate scan.nii.gz --out fake --model runs/mri-to-ct-001

    # DICOM without any patient attribute
    $ medxlate translate scans/mri --out fake_ct --phi remove

    # A BIDS data set, into a BIDS derivative data set
    $ medxlate translate ds --out ds/derivatives/synthetic-ct
    ```
    """
    images = images_of(images, input_)
    from medxlate.cli.console import left_out, reporting

    again = "No incomplete file is in --out. The same command continues."
    with reporting(json=json, interrupted=again, shared=True) as reporter:
        from medxlate.artifacts.hub import located
        from medxlate.inference.request import check_translation

        model = located(model, reporter)
        check_translation(
            images,
            out=out,
            model=model,
            phi=phi,
            compiling=compiling,
            tile=tile,
            overwrite=overwrite,
            bids=bids,
        )
        from medxlate.inference.translate import translate as run

        result = run(
            images,
            out=out,
            model=model,
            source=source,
            include=include or (),
            exclude=exclude or (),
            dicom_modality=dicom_modality,
            force=force,
            volume=volume,
            phi=phi,
            key=key,
            device=device,
            precision=precision,
            compiling=compiling,
            batch_size=batch_size,
            tile=tile,
            bids=bids,
            bids_suffix=bids_suffix,
            overwrite=overwrite,
            listener=reporter,
        )
        reporter.result(
            {
                "out": str(result.out),
                "files": result.files,
                "slices": result.slices,
                "failed": result.failed,
                "left_out": result.left_out,
                "notes": list(result.notes),
                "seconds": result.seconds,
            },
            f"{result.slices} synthetic slices in {result.files} files in {result.out} "
            f"({result.seconds:.1f} s).",
            *left_out(result.left_out),
        )
        kept = f"The others are in {result.out}; its translation.json lists all."
        reporter.end_with(result.failed, "translated", kept)
