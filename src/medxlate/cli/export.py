"""``medxlate export onnx|hub|bundle``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from medxlate.base.errors import MedxlateError, OutputError, UsageError
from medxlate.cli import complete
from medxlate.cli.command import Command, Group
from medxlate.cli.loudness import takes_loudness
from medxlate.cli.options import OUTPUT, UPLOAD, Json, Overwrite, flag, option

export = typer.Typer(
    name="export",
    cls=Group,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Export a model in a format that other programs read.",
)
ModelArgument = Annotated[
    Path,
    typer.Argument(
        metavar="MODEL",
        help="Run or model folder. runs/latest is the newest run.",
        autocompletion=complete.run_paths,
    ),
]
License = Annotated[
    str | None,
    option(
        "--license",
        panel=OUTPUT,
        metavar="NAME",
        help="License of the weights, such as apache-2.0, cc-by-nc-4.0 or other. Required.",
    ),
]
Out = Annotated[Path, option("--out", "-o", panel=OUTPUT, metavar="DIR", help="Folder to write.")]


@export.command("onnx", cls=Command)
@takes_loudness
def onnx(
    model: ModelArgument,
    out: Out,
    tolerance: Annotated[
        float,
        option(
            "--tolerance",
            panel=OUTPUT,
            metavar="NUMBER",
            help="Largest difference allowed between the outputs of onnxruntime and torch.",
        ),
    ] = 1e-3,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Export generators and predictor as ONNX, and check that they compute the same as in torch.

    onnx.json says how images are read. Needs `pip install 'medxlate[onnx]'`.

    ```
    # The newest run
    $ medxlate export onnx runs/latest --out onnx
    ```
    """
    from medxlate.cli.console import reporting

    with reporting(json=json) as reporter:
        from medxlate.export.onnx import export_onnx

        result = export_onnx(
            model, out=out, tolerance=tolerance, overwrite=overwrite, listener=reporter
        )
        lines = [
            f"{name}: differs from torch by {each.random:.1e} on random images"
            + (f", {each.real:.1e} on real ones." if each.real is not None else ".")
            for name, each in result.parity.items()
        ]
        reporter.result({**asdict(result), "out": str(result.out)}, *lines)


@export.command("hub", cls=Command)
@takes_loudness
def hub(
    model: ModelArgument,
    out: Out,
    license_: License = None,
    push: Annotated[
        str | None,
        option(
            "--push",
            panel=UPLOAD,
            metavar="OWNER/NAME",
            help="Upload the folder to this repository of a model hub.",
        ),
    ] = None,
    public: Annotated[
        bool,
        flag("--public", panel=UPLOAD, help="With --push: make the repository public."),
    ] = False,
    data: Annotated[
        Path | None,
        option(
            "--data",
            panel=UPLOAD,
            metavar="DIR",
            help="With --push: the dataset whose patients the folder is searched for first. "
            "Default: the run's own.",
        ),
    ] = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    r"""Share a model: write the folder that model hubs expect, and upload it if you ask for it.

    The folder holds a model card, config.json and safetensors. Nothing is uploaded without
    --push, which uses the address and token that huggingface_hub is set up with, makes a private
    repository, and uploads nothing if `medxlate scrub` finds anything.

    ```
    # The folder alone
    $ medxlate export hub runs/latest --out shared --license cc-by-nc-4.0

    # The folder, uploaded
    $ medxlate export hub runs/latest --out shared --license cc-by-nc-4.0 \
        --push lab/mri-to-ct
    ```
    """
    from medxlate.cli.console import reporting

    with reporting(json=json) as reporter:
        from medxlate.export.hub import check_repo, export_hub

        if push is None and (public or data is not None):
            raise UsageError("--public and --data belong to --push.")
        if push is not None:
            check_repo(push)
            data = data or _dataset_of(model)
        made = export_hub(
            model, out=out, license_=_chosen(license_), overwrite=overwrite, listener=reporter
        )
        figures = f", with {made.metrics} metrics of its evaluation" if made.metrics else ""
        text = f"{len(made.files)} files in {made.out}{figures}."
        values = {**asdict(made), "out": str(made.out)}
        if push is None:
            check = f"`medxlate scrub {made.out} --data DATASET`"
            reporter.result(values, f"{text} Before you share it: {check}.")
            return
        assert data is not None
        url = _pushed(made.out, push, data, public)
        reporter.result({**values, "pushed": url}, text, f"Uploaded: --model {url}")


@export.command("bundle", cls=Command)
@takes_loudness
def bundle(
    model: ModelArgument,
    out: Out,
    license_: License = None,
    source: Annotated[
        str | None,
        option(
            "--source",
            panel=OUTPUT,
            metavar="MODALITY",
            help="Source modality, if the model has several.",
            autocompletion=complete.modalities,
        ),
    ] = None,
    authors: Annotated[
        str,
        option(
            "--authors",
            panel=OUTPUT,
            metavar="TEXT",
            help="Who is named as author and in the copyright notice.",
        ),
    ] = "not stated",
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Export a translator as a MONAI bundle, which `python -m monai.bundle run` runs.

    The bundle loads its safetensors weights with medxlate, which must be installed beside MONAI.

    ```
    # The newest run
    $ medxlate export bundle runs/latest --out mri-to-ct --license apache-2.0
    ```
    """
    from medxlate.cli.console import reporting

    with reporting(json=json) as reporter:
        from medxlate.export.bundle import export_bundle

        made = export_bundle(
            model,
            out=out,
            license_=_chosen(license_),
            source=source,
            authors=authors,
            overwrite=overwrite,
            listener=reporter,
        )
        reporter.result(
            {**asdict(made), "out": str(made.out)},
            f"A bundle that translates from {made.source}, {len(made.files)} files in {made.out}. "
            f"Before you share it: `medxlate scrub {made.out} --data DATASET`.",
        )


def _chosen(license_: str | None) -> str:
    """Return the license; raises UsageError where none was chosen."""
    if license_ is None:
        raise UsageError(
            "No license is given, and only you can choose one for the weights.",
            "Name it with --license: apache-2.0, cc-by-nc-4.0, other...",
        )
    return license_


def _dataset_of(model: Path) -> Path:
    """Return the dataset that a run was trained on; raises UsageError where none is known."""
    from medxlate.artifacts.runs import find_run, read_config

    try:
        return Path(read_config(find_run(model)).data.folder)
    except MedxlateError:
        raise UsageError(
            f"{model} does not record the dataset that it was trained on.",
            "Name it with --data: the folder is searched for its patients before the upload.",
        ) from None


def _pushed(folder: Path, repo: str, data: Path, public: bool) -> str:
    """Upload a folder unless something in it identifies a patient; return what --model takes."""
    from medxlate.export.hub import push_hub
    from medxlate.scrub.scrub import scrub

    found = scrub(folder, data=data).found
    if found:
        places = "; ".join(f"{each.file}, {each.where}: {each.kind}" for each in found[:5])
        raise OutputError(
            f"Nothing was uploaded: {folder} may identify a patient ({places}).",
            f"`medxlate scrub {folder} --data {data}` lists all.",
        )
    return push_hub(folder, repo, public=public)
