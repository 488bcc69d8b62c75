"""The training loop: epochs of steps, then validation, samples and a checkpoint."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

from torch import Tensor

from medxlate.artifacts.runs import RunFolder
from medxlate.base.device import tuned_convolutions
from medxlate.base.distributed import ranks
from medxlate.base.errors import ModelError, StoppedError
from medxlate.base.events import (
    EpochEnded,
    Listener,
    Progress,
    SamplesWritten,
    StepLogged,
    Warned,
    silent,
)
from medxlate.method.learner import set_rate
from medxlate.method.schedule import Phase, first_epoch, phase_at
from medxlate.training.exchange import average_statistics
from medxlate.training.loader import TrainLoader
from medxlate.training.monitor import TrainingMonitor
from medxlate.training.saver import Saver
from medxlate.training.setup import TrainingSetup
from medxlate.training.state import TrainingProgress, TrainingState, restore, take_state
from medxlate.training.step_runner import StepRunner
from medxlate.training.validation import Translations, Validation

FIRST_STEPS = 3  # by which the time of the training is estimated; one more to warm up
LONG = 3600.0  # seconds; a training on a processor that takes longer says so
AGREE_EVERY = 5  # steps between two looks of several processes at who asks to stop

Stop = Callable[[], str]


def never() -> str:
    """Ask for nothing."""
    return ""


class Loop:
    """Trains a learner from wherever it stands to the last epoch.

    Args:
        setup: What is trained, and on what.
        folder: The run.
        listener: Receives every event.
        stop: Whether the training is asked to stop; says by whom, or "".

    Attributes:
        first_step: Where an undisturbed training begins: not at 0 where there is a warm-up and
            nothing learns in it.
    """

    def __init__(
        self,
        setup: TrainingSetup,
        folder: RunFolder,
        *,
        listener: Listener = silent,
        stop: Stop = never,
    ) -> None:
        learner, data, config, compute = setup.learner, setup.data, setup.config, setup.compute
        self._learner = learner
        self._config = config
        self._compute = compute
        self._folder = folder
        self._listener = listener
        self._stop = stop
        self._ranks = ranks()
        self._batch_size = config.optimizer.batch_size
        self._steps_per_epoch = data.steps_per_epoch(config.optimizer)
        self._loader = TrainLoader(
            {name: data.train[name] for name in learner.modalities},
            batch_size=self._batch_size,
            seed=config.runtime.seed,
            device=compute.device,
            follow=data.follow,
        )
        self._saver = Saver(folder.checkpoints, runtime=config.runtime, writes=self._ranks.is_first)
        self._validation = Validation(
            learner, data, target=config.data.target, head=setup.head, compute=compute
        )
        self._averages = learner.averages
        self._monitor = TrainingMonitor()
        self._constant = self._validation.constant()
        # Where no translator learns, there is nothing to wait for before the predictor begins.
        skipped = 0 if learner.translates else first_epoch(config.optimizer)
        self.first_step = skipped * self._steps_per_epoch
        self._position = TrainingProgress(step=self.first_step, epoch=skipped)
        self._window: dict[str, Tensor] = {}
        self._base_rates = {
            n: float(o.param_groups[0]["lr"]) for n, o in learner.optimizers.items()
        }
        self._rates: dict[str, float] = {}
        self._chooses = config.optimizer.keep == "best"
        self._warned = False
        self._began = 0.0  # the epoch, in monotonic seconds

    def begin(self, start: TrainingState) -> TrainingProgress:
        """Bring everything to a snapshot, from which ``run`` goes on; return where it stands.

        The snapshot is not held on to.

        Raises:
            ModelError: It is of another configuration.
        """
        self._window = restore(start, self._learner, self._compute.device)
        self._averages.load_state(start.averages)
        try:
            self._monitor.load_state(start.monitor)
        except (KeyError, TypeError, ValueError, AttributeError) as problem:
            raise ModelError(
                f"The monitor's record in the checkpoint is damaged: {problem!r}."
            ) from None
        self._position = start.position
        if self._lacks_a_best(start.position):  # the last validation is repeated
            self._position = replace(start.position, epoch=start.position.epoch - 1)
        return self._position

    def _lacks_a_best(self, position: TrainingProgress) -> bool:
        """Return whether an epoch has just ended whose validation must have given a best one."""
        if position.best_step or not position.epoch:
            return False
        ended = position.step == position.epoch * self._steps_per_epoch
        last = position.epoch == self._config.optimizer.epochs
        chosen = self._chooses and position.epoch > first_epoch(self._config.optimizer)
        return ended and (last or (chosen and self._constant is not None))

    def run(self, *, until: int | None = None) -> TrainingProgress:
        """Train to the end and return where the training then stands.

        Args:
            until: The step after which to end early, without validation; None: the last one.

        Raises:
            ModelError: The training diverged.
            StoppedError: It was asked to stop; a checkpoint holds everything.
            OutputError: A checkpoint could not be written; those before stay.
        """
        with self._loader, self._saver, tuned_convolutions(self._compute.device):
            if self._position.epoch < self._config.optimizer.epochs:
                self._begin_steps()
            for epoch in range(self._position.epoch, self._config.optimizer.epochs):
                self._began = time.monotonic()
                if not self._epoch(epoch, until):
                    break
                self._end_epoch(epoch + 1)
        return self._position

    def snapshot(self) -> TrainingState:
        """Return the state in which the training stands; it changes with the next step."""
        return take_state(
            self._learner,
            replace(
                self._position, compiled=self._step_runner.compiled, parts=self._step_runner.parts
            ),
            device=self._compute.device,
            window=self._step_runner.state(),
            monitor=self._monitor.state(),
            averages=self._averages.state(),
        )

    def _begin_steps(self) -> None:
        """Decide how steps are taken, and say how long all of them will take."""
        self._step_runner = StepRunner(
            self._learner,
            compute=self._compute,
            runtime=self._config.runtime,
            listener=self._listener,
            position=self._position,
            window=self._window,
        )
        batches = self._loader.take(self._position.step)
        steps = self._config.optimizer.epochs * self._steps_per_epoch
        if self._position.step == self.first_step and self._compute.device.type == "cpu":
            # Before anything is compiled or taken: the paper's first steps take a minute.
            self._warn_if_long(
                self._step_runner.estimate_seconds(batches) * (steps - self.first_step)
            )
        self._step_runner.prepare(batches, steps=steps)

    def _epoch(self, epoch: int, until: int | None) -> bool:
        """Take the steps of an epoch that are left; return False where ``until`` was reached.

        Losses are fetched from the device at log time only.
        """
        total = self._config.optimizer.epochs * self._steps_per_epoch
        end = (epoch + 1) * self._steps_per_epoch
        waited, began, first, warm = 0.0, time.monotonic(), self._position.step, 0.0
        for step in range(self._position.step, end):
            if step == until:
                return False
            asked = time.monotonic()
            batches = self._loader.take(step)
            waited += time.monotonic() - asked
            phase = phase_at(step / total, self._config.optimizer)
            self._set_rates(phase)
            self._step_runner.step(batches, number=step, progress=step / total)
            if phase.translators:
                self._averages.update()
            self._position = replace(self._position, step=step + 1)
            if step == self.first_step:
                warm = time.monotonic()
            elif step == self.first_step + FIRST_STEPS and warm:
                left = total - self.first_step
                self._warn_if_long((time.monotonic() - warm) / FIRST_STEPS * left)
            values: dict[str, float] = {}
            if (step + 1) % self._config.runtime.log_every == 0 or step + 1 == end:
                steps = step + 1 - first
                values = self._log(epoch + 1, steps, time.monotonic() - began, waited)
                waited, began, first = 0.0, time.monotonic(), step + 1
            epochs = self._config.optimizer.epochs
            self._listener(Progress("training", step + 1, total, values, epoch + 1, epochs))
            self._between(ended=step + 1 == end)
        return True

    def _warn_if_long(self, seconds: float) -> None:
        """Say once how long the training will take, where that is long and need not be."""
        if seconds < LONG or self._compute.device.type != "cpu" or not self._ranks.is_first:
            return
        if self._warned:  # before the first step
            return
        self._warned = True
        epochs, steps = self._config.optimizer.epochs, self._steps_per_epoch
        self._listener(
            Warned(
                f"{epochs} epochs x {steps} steps will take about {seconds / 3600:.1f} hours on "
                "this CPU. `--preset scarce`, made for few images, trains in minutes here."
            )
        )

    def _log(self, epoch: int, steps: int, seconds: float, waited: float) -> dict[str, float]:
        """Fetch and report the losses since the last time; the one wait for the device.

        Args:
            epoch: From 1.
            steps: How many this process took in these seconds.
            seconds: How long they took.
            waited: How much of that was spent waiting for images.
        """
        window = self._step_runner.collect()
        skipped = self._position.skipped + window.skipped
        self._position = replace(self._position, skipped=skipped)
        images = steps * self._batch_size * len(self._learner.modalities)
        self._listener(
            StepLogged(
                self._position.step,
                epoch,
                window.losses,
                images / seconds,
                waited / seconds,
                window.skipped,
            )
        )
        for alarm in self._monitor.losses(self._position.step, window.losses):
            self._listener(alarm)
        return window.losses

    def _between(self, *, ended: bool) -> None:
        """Save, and stop where that is asked, between two steps.

        Args:
            ended: Whether the epoch's last step was taken: what is due then comes after the
                validation.
        """
        self._saver.check()
        due = self._saver.is_due(self._position.step)
        who, late = self._agreed(self._stop(), self._saver.is_late())
        if who:
            self._save()
            self._saver.finish()
            self._ranks.barrier()  # torchrun ends the others when one has ended
            raise StoppedError(
                f"Stopped by {who} after step {self._position.step}; the training is saved in "
                f"{self._folder.path}."
            )
        if (due or late) and not ended:
            self._save()

    def _agreed(self, who: str, late: bool) -> tuple[str, bool]:
        """Return who asks all processes to stop, and whether the first finds it late."""
        if self._ranks.is_alone:
            return who, late
        if self._position.step % AGREE_EVERY:
            return "", False
        every = self._ranks.gather([who, late])
        return next((each for each, _ in every if each), ""), every[0][1]

    def _save(self) -> None:
        if not self._ranks.is_alone:
            average_statistics(self._learner)
        self._saver.save(self.snapshot())

    def _end_epoch(self, epoch: int) -> None:
        """Validate, show and save after an epoch, counted from 1."""
        epochs = self._config.optimizer.epochs
        step, last = self._position.step, epoch == epochs
        begun = epoch > first_epoch(self._config.optimizer)  # the predictor has learned something
        metrics = {**(self._validation.metrics() if begun else {}), **self._monitor.ratios()}
        error = metrics.get("val_error")
        if error is not None and not math.isfinite(error):
            raise ModelError(
                f"The training diverged: the validation error of epoch {epoch} is {error}.",
                "Lower optimizer.translator_lr and optimizer.predictor_lr.",
            )
        # Without a validation to choose by, the last state is the one to take.
        best = last if error is None or not self._chooses else self._position.is_better(error)
        self._position = replace(self._position, epoch=epoch)
        if best:
            self._position = replace(self._position, best_error=error, best_step=step)
        seconds = round(time.monotonic() - self._began, 3)
        phase = phase_at((step - 1) / (epochs * self._steps_per_epoch), self._config.optimizer)
        rates = self._rates_in(phase)
        self._listener(EpochEnded(step, epoch, epochs, metrics, best, rates, seconds))
        with self._averages.shown():
            translations = self._validation.translations()
            reproduces = phase_at((epoch - 1) / epochs, self._config.optimizer).reproduces
            self._report_alarms(metrics, {} if reproduces else translations)
            if last or epoch % self._config.runtime.samples_every == 0:
                files = self._validation.write_samples(self._folder, epoch, epochs, translations)
                self._listener(SamplesWritten(step, epoch, files))
        every = self._config.runtime.checkpoint_every
        if best or last or epoch % every == 0 or self._saver.is_due(step):
            self._save()

    def _report_alarms(self, metrics: Mapping[str, float], translations: Translations) -> None:
        """Report what goes wrong, after the epoch: see ``record.rewind_record``."""
        step, alarms = self._position.step, []
        if self._constant is not None and "val_error" in metrics:
            where = "+".join(self._learner.validates)
            alarms += self._monitor.validation(step, where, metrics["val_error"], self._constant)
        for name, (y, fake_t, x) in translations.items():
            alarms += self._monitor.images(step, name, y, fake_t, x)
        for alarm in alarms:
            self._listener(alarm)

    def _rates_in(self, phase: Phase) -> dict[str, float]:
        return {
            name: base * (phase.predictor_rate if name == "predictor" else phase.translator_rate)
            for name, base in self._base_rates.items()
        }

    def _set_rates(self, phase: Phase) -> None:
        rates = self._rates_in(phase)
        if rates != self._rates:  # a device is written to only then
            for name, each in self._learner.optimizers.items():
                set_rate(each, rates[name])
            self._rates = rates
