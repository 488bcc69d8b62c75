"""``medxlate export onnx|hub|bundle``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from medxlate.base.errors import MedxlateError, OutputError, UsageError
from medxlate.cli import complete
from medxlate.cli.loudness import takes_loudness
from medxlate.cli.options import Json, Overwrite

export = typer.Typer(
    name="export",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Write models in the forms that other programs read.",
)
ModelArgument = Annotated[
    Path,
    typer.Argument(
        help="A run, runs/latest, or a model folder.", autocompletion=complete.run_paths
    ),
]
License = Annotated[
    str | None, typer.Option("--license", help="The weights' license: apache-2.0, other...")
]
Out = Annotated[Path, typer.Option("--out", "-o", help="The folder to write.")]


@export.command("onnx")
@takes_loudness
def onnx(
    model: ModelArgument,
    out: Out,
    tolerance: Annotated[
        float,
        typer.Option("--tolerance", help="Largest difference between onnxruntime and torch."),
    ] = 1e-3,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Write a trained model as ONNX: generators and predictor, compared with torch in onnxruntime.

    `medxlate export onnx runs/latest --out onnx`

    onnx.json says how images are read. Needs `pip install 'medxlate[onnx]'`.
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


@export.command("hub")
@takes_loudness
def hub(
    model: ModelArgument,
    out: Out,
    license_: License = None,
    push: Annotated[
        str | None,
        typer.Option("--push", help="Upload the folder to this repository, OWNER/NAME."),
    ] = None,
    public: Annotated[
        bool, typer.Option("--public", help="With --push: everybody may read it.")
    ] = False,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            help="With --push: the dataset whose patients it is searched for. Default: the run's.",
        ),
    ] = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Write a trained model as a folder that model hubs take: card, config.json, safetensors.

    `medxlate export hub runs/latest --out shared --license cc-by-nc-4.0`

    Nothing is uploaded without `--push`, which takes address and token from huggingface_hub's own
    environment, makes a private repository, and refuses what `medxlate scrub` finds something in.
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
        figures = f", with {made.metrics} figures of its evaluation" if made.metrics else ""
        text = f"{len(made.files)} files in {made.out}{figures}."
        values = {**asdict(made), "out": str(made.out)}
        if push is None:
            check = f"`medxlate scrub {made.out} --data DATASET`"
            reporter.result(values, f"{text} Before you share it: {check}.")
            return
        assert data is not None
        url = _pushed(made.out, push, data, public)
        reporter.result({**values, "pushed": url}, text, f"Uploaded: --model {url}")


@export.command("bundle")
@takes_loudness
def bundle(
    model: ModelArgument,
    out: Out,
    license_: License = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--source",
            help="Source modality, where the model has several.",
            autocompletion=complete.modalities,
        ),
    ] = None,
    authors: Annotated[
        str, typer.Option("--authors", help="Who is named as author, and in the copyright.")
    ] = "not stated",
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Write a translator as a MONAI bundle, which `python -m monai.bundle run` translates with.

    `medxlate export bundle runs/latest --out mri-to-ct --license apache-2.0`

    The weights are safetensors, which medxlate reads: it must be installed beside MONAI.
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
            "Nobody but you can choose the license of the weights.",
            "Name it: --license apache-2.0, cc-by-nc-4.0, other...",
        )
    return license_


def _dataset_of(model: Path) -> Path:
    """Return the dataset that a run was trained on; raises UsageError where none is known."""
    from medxlate.artifacts.runs import find_run, read_config

    try:
        return Path(read_config(find_run(model)).data.folder)
    except MedxlateError:
        raise UsageError(
            f"{model} does not say from which dataset it was made.",
            "Name it with --data: what is uploaded is searched for its patients first.",
        ) from None


def _pushed(folder: Path, repo: str, data: Path, public: bool) -> str:
    """Upload a folder unless something in it identifies a patient; return what --model takes."""
    from medxlate.export.hub import push_hub
    from medxlate.scrub.scrub import scrub

    found = scrub(folder, data=data).found
    if found:
        places = "; ".join(f"{each.file}, {each.where}: {each.kind}" for each in found[:5])
        raise OutputError(
            f"Nothing was uploaded, for {folder} holds what may identify a patient: {places}.",
            f"`medxlate scrub {folder} --data {data}` lists all.",
        )
    return push_hub(folder, repo, public=public)
