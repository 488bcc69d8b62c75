"""``medxlate train``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medxlate.base.distributed import restarts
from medxlate.base.errors import ModelError, UsageError
from medxlate.cli import complete
from medxlate.cli.options import (
    ConfigFile,
    DataOverride,
    DeviceOverride,
    Json,
    Offline,
    Preset,
    Runs,
    Target,
    Where,
    given_sections,
)
from medxlate.cli.report import leave_report
from medxlate.cli.signals import stopping

if TYPE_CHECKING:
    from medxlate.cli.console import Reporter
    from medxlate.config import Config
    from medxlate.training.train import TrainResult

LARGE = 500_000_000  # bytes of checkpoints that are mentioned


def train(
    source: Annotated[
        list[str] | None,
        typer.Option(
            "--source",
            help="Source modality; repeat for several.",
            autocompletion=complete.modalities,
        ),
    ] = None,
    target: Target = None,
    where: Where = None,
    preset: Preset = None,
    method: Annotated[
        str | None,
        typer.Option(
            "--method",
            help="joint (default), joint+autoaugment, or a baseline such as cyclegan.",
            autocompletion=complete.methods,
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option("--epochs", help="Default: 200.")] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", help="Images of each modality a step. Default: 1.")
    ] = None,
    pretrained: Annotated[
        str | None,
        typer.Option(
            "--pretrained",
            help="Initial predictor weights: imagenet (timm's) or a .safetensors file.",
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Of weights, order, split.")] = None,
    data: DataOverride = None,
    runs: Runs = Path("runs"),
    name: Annotated[
        str | None,
        typer.Option("--name", help="The run's name.", autocompletion=complete.run_names),
    ] = None,
    device: DeviceOverride = None,
    precision: Annotated[
        str | None, typer.Option("--precision", help="auto, fp32 or bf16.")
    ] = None,
    compile_: Annotated[
        str | None,
        typer.Option("--compile", help="auto (on a GPU), on or off: torch.compile."),
    ] = None,
    config: ConfigFile = None,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", help="section.key=value, any key of the configuration; repeat."),
    ] = None,
    offline: Offline = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the newest run, or the one of --name.")
    ] = False,
    auto_resume: Annotated[
        bool,
        typer.Option(
            "--auto-resume",
            help="Continue the run of --name where it was begun, begin it otherwise.",
        ),
    ] = False,
    keep: Annotated[
        int | None,
        typer.Option("--keep", help="How many new checkpoints stay. Default: 2, at the end 1."),
    ] = None,
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="The same bits each time, on a GPU too.")
    ] = False,
    sync_bn: Annotated[
        bool | None,
        typer.Option(
            "--sync-bn/--no-sync-bn",
            help="Several processes: batch norm over the whole batch (default), or each part.",
        ),
    ] = None,
    track: Annotated[
        list[str] | None,
        typer.Option("--track", help="Send it to tensorboard, wandb or mlflow; repeat."),
    ] = None,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify-resume",
            help="Train a few steps with and without a stop, compare all bits, keep nothing.",
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Train translators and predictor together (or the predictor alone).

    `medxlate train --source mri --target ct`

    `medxlate train --source mri --source pet --target ct --preset small --set optimizer.epochs=30`

    `medxlate train --resume`

    `torchrun --nproc-per-node 4 -m medxlate train --source mri --target ct --batch-size 8`

    Ctrl-C, SIGTERM and SIGUSR1 finish the step, save a checkpoint and end with exit code 3.
    """
    from medxlate.cli.console import reporting

    hint = "Checkpoints made before are kept; continue with `medxlate train --resume`."
    with reporting(json=json, interrupted=hint, shared=True) as reporter:
        from medxlate.config import resolve

        overrides = given_sections(
            data={"sources": source, "target": target, "where": where},
            optimizer={"epochs": epochs, "batch_size": batch_size},
            model={"pretrained": pretrained},
            split={"seed": seed},
            runtime={
                "seed": seed,
                "device": device,
                "precision": precision,
                "compile": compile_,
                "keep_checkpoints": keep,
                "deterministic": deterministic or None,
                "sync_bn": sync_bn,
                "offline": offline or None,
                "trackers": track,
            },
        )
        if method is not None:
            overrides["method"] = method
        if resume:
            if overrides or preset or config or sets or auto_resume or verify:
                raise UsageError(
                    "--resume continues a run with its own configuration.",
                    "Give it nothing but --runs, --name and --data.",
                )
            from medxlate.training.train import resume as run_again

            with stopping() as signals:
                result = run_again(
                    runs / (name or "latest"),
                    data=data,
                    stop=signals.first,
                    listener=signals.watching(reporter),
                )
            _show(reporter, result)
            return
        if data is not None:
            overrides.setdefault("data", {})["folder"] = str(data)
        settings = resolve(preset=preset, file=config, sets=sets or (), overrides=overrides)
        if verify:
            _verify(reporter, settings)
            return
        proceed = _proceeds(auto_resume, name)
        if settings.data.target:
            from medxlate.dataset.index import Dataset

            Dataset(Path(settings.data.folder))  # refused before torch is loaded
        from medxlate.training.train import train as run

        with stopping() as signals:
            result = run(
                settings,
                runs=runs,
                name=name,
                proceed=proceed,
                stop=signals.first,
                listener=signals.watching(reporter),
            )
        _show(reporter, result)


def _proceeds(auto_resume: bool, name: str | None) -> bool:
    """Return whether a run that was begun is continued; torchrun starts the same command again."""
    done, most = restarts()
    if (auto_resume or most) and name is None:
        raise UsageError(
            "--auto-resume continues a run by its name."
            if auto_resume
            else "torchrun may restart this training, which then continues its run by its name.",
            "Give it one with --name.",
        )
    return auto_resume or done > 0


def _verify(reporter: Reporter, settings: Config) -> None:
    from medxlate.training.verify import verify_resume

    found = verify_resume(settings, listener=reporter)
    how = f"{found.steps} steps with and without a stop after step {found.stopped_at}"
    what = f"{found.tensors} tensors, {found.values:,} numbers ({found.device})"
    same = f"The same bits after {how}: {what}."
    reporter.result(asdict(found), *([] if found.differences else [same]))
    if found.differences:
        first = found.differences[0]
        raise ModelError(
            f"Not the same after {how}: {len(found.differences)} of {found.tensors} tensors "
            f"differ, {first.name} by up to {first.largest:.3g}.",
            "Try it with --deterministic." if not settings.runtime.deterministic else "",
        )


def _show(reporter: Reporter, result: TrainResult) -> None:
    leave_report(reporter, result.run)
    size = result.checkpoint_bytes
    large = [f"Its checkpoints take {size / 1e6:.0f} MB."] if size >= LARGE else []
    reporter.result(
        {**asdict(result), "run": str(result.run)},
        f"{result.run}: {result.steps} steps in {result.seconds:.0f} s; lowest validation "
        f"error {result.best_error:.4g} at step {result.best_step}.",
        *large,
        f"The model is in {result.run / 'model'}; next: medxlate evaluate",
    )
