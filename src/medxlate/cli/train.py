"""``medxlate train``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from medxlate.base.distributed import restarts
from medxlate.base.errors import ModelError, UsageError
from medxlate.cli import complete
from medxlate.cli.options import (
    HARDWARE,
    INPUT,
    METHODS_HELP,
    RUN,
    TRAINING,
    CompileOverride,
    ConfigFile,
    DataOverride,
    DeviceOverride,
    Json,
    Offline,
    PrecisionOverride,
    Preset,
    Runs,
    Sets,
    Target,
    Where,
    choice,
    flag,
    given_sections,
    option,
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
        option(
            "--source",
            panel=INPUT,
            metavar="MODALITY",
            help="Source modality, which is translated. Repeatable for several.",
            autocompletion=complete.modalities,
        ),
    ] = None,
    target: Target = None,
    data: DataOverride = None,
    where: Where = None,
    preset: Preset = None,
    method: Annotated[
        str | None,
        choice(
            "--method",
            words=complete.METHODS,
            panel=TRAINING,
            metavar="NAME",
            help=f"{METHODS_HELP} Default: joint.",
            is_open=True,
            plugins="methods",
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        option("--epochs", panel=TRAINING, metavar="N", help="Number of epochs. Default: 200."),
    ] = None,
    batch_size: Annotated[
        int | None,
        option(
            "--batch-size",
            panel=TRAINING,
            metavar="N",
            help="Images of each modality in a step. Default: 1.",
        ),
    ] = None,
    pretrained: Annotated[
        str | None,
        choice(
            "--pretrained",
            words=("imagenet",),
            panel=TRAINING,
            metavar="WEIGHTS",
            help="Initial weights of the predictor: {words} (timm's), or a .safetensors file. "
            "Default: random.",
            is_open=True,
        ),
    ] = None,
    seed: Annotated[
        int | None,
        option(
            "--seed",
            panel=TRAINING,
            metavar="N",
            help="Random seed for initial weights, data order and split. Default: 0.",
        ),
    ] = None,
    config: ConfigFile = None,
    sets: Sets = None,
    runs: Runs = Path("runs"),
    name: Annotated[
        str | None,
        option(
            "--name",
            panel=RUN,
            metavar="NAME",
            help="Name of the run. Default: made from the modalities, such as mri-to-ct-001.",
            autocompletion=complete.run_names,
        ),
    ] = None,
    resume: Annotated[
        bool,
        flag("--resume", panel=RUN, help="Continue the newest run, or the run named by --name."),
    ] = False,
    auto_resume: Annotated[
        bool,
        flag(
            "--auto-resume",
            panel=RUN,
            help="Continue the run named by --name if it exists; otherwise start it.",
        ),
    ] = False,
    keep: Annotated[
        int | None,
        option(
            "--keep",
            panel=RUN,
            metavar="N",
            help="Number of recent checkpoints to keep. Default: 2 during training, 1 at the end.",
        ),
    ] = None,
    track: Annotated[
        list[str] | None,
        choice(
            "--track",
            words=complete.TRACKERS,
            panel=RUN,
            metavar="NAME",
            help="Send the training to a tracker: {words}. Repeatable.",
        ),
    ] = None,
    verify: Annotated[
        bool,
        flag(
            "--verify-resume",
            panel=RUN,
            help="Check that resuming is exact on this machine: train a few steps with and "
            "without a stop, compare every bit, and keep nothing.",
        ),
    ] = False,
    device: DeviceOverride = None,
    precision: PrecisionOverride = None,
    compile_: CompileOverride = None,
    deterministic: Annotated[
        bool,
        flag(
            "--deterministic",
            panel=HARDWARE,
            help="Give bit-identical results in every run, on a GPU too. Slower.",
        ),
    ] = False,
    sync_bn: Annotated[
        bool | None,
        flag(
            "--sync-bn/--no-sync-bn",
            panel=HARDWARE,
            help="With several processes: batch norm over the whole batch (default), or over "
            "each process's part.",
        ),
    ] = None,
    offline: Offline = False,
    json: Json = False,
) -> None:
    r"""Train translators and predictor together, or the predictor alone.

    Ctrl-C, SIGTERM and SIGUSR1 finish the step, save a checkpoint and end with exit code 3.

    ```
    # The paper's method, on the modalities in ./data
    $ medxlate train --source mri --target ct

    # Few target images, or no GPU
    $ medxlate train --source mri --target ct --preset scarce

    # A baseline: the predictor on real target images alone
    $ medxlate train --target ct --method target-only --name baseline

    # Several sources, and a key of the configuration
    $ medxlate train --source mri --source pet --target ct \
        --preset small --set optimizer.epochs=30

    # Continue after a stop
    $ medxlate train --resume

    # Four GPUs
    $ torchrun --nproc-per-node 4 -m medxlate train --source mri --target ct \
        --batch-size 8
    ```
    """
    from medxlate.cli.console import reporting

    hint = "Earlier checkpoints are kept. To continue: `medxlate train --resume`."
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
                    "Use it only with --runs, --name and --data.",
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
            "--auto-resume needs the name of a run."
            if auto_resume
            else "torchrun may restart this training, which needs the run's name to continue.",
            "Name the run with --name.",
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
