"""How steps are taken: in parts, skipped, given up, compiled, within the memory there is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from medxlate.base.errors import ModelError
from medxlate.base.events import Event, Warned, silent
from medxlate.config import RuntimeConfig
from medxlate.dataset.loading import Batch
from medxlate.method import compiling
from medxlate.method.buffer import ImageBuffer
from medxlate.method.joint import Joint
from medxlate.training import step_runner as module
from medxlate.training.state import TrainingProgress
from medxlate.training.step import gradients, plan_buffers, take_step
from medxlate.training.step_runner import SKIPPED_IN_A_ROW, StepRunner
from stepping import CPU, batches, make_joint, make_step_runner


def state(learner: Joint) -> dict[str, Tensor]:
    """Everything that a step may change."""
    found = {k: v.clone() for k, v in learner.networks.state_dict().items()}
    for name, optimizer in learner.optimizers.items():
        for i, moments in enumerate(optimizer.state.values()):
            found |= {f"{name}.{i}.{key}": value.clone() for key, value in moments.items()}
    for name, buffer in learner.buffers.items():
        found |= {f"{name}.{key}": value.clone() for key, value in buffer.state().items()}
    return found


def check_same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert set(ours) == set(theirs)
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


# Together and in parts


@pytest.mark.parametrize("identity", [0.0, 5.0])
def test_calls_as_one_batch_change_no_gradient(identity: float):
    found = []
    for together in (False, True):
        learner = make_joint(together=together, identity=identity)
        learner.networks.double()
        plan_buffers(learner, len(batches()["ct"].labels))
        losses = gradients(learner, batches(dtype=torch.float64))
        found.append((losses, [p.grad for p in learner.networks.parameters()]))
    (ours, mine), (theirs, wanted) = found
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=0)
    torch.testing.assert_close(mine, wanted, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("parts", [2, 3, 4])
def test_in_parts_the_gradients_are_those_of_the_whole(parts: int):
    """The predictor apart, whose batch norm sees a part; the buffers show the same images."""
    learners = [make_joint(predictor=False), make_joint(predictor=False)]
    for learner in learners:
        learner.networks.double()
    for step in range(4):  # the buffers hold three images, and four come in a step
        given = batches(seed=step, dtype=torch.float64)
        whole, divided = (
            take_step(learner, given, parts=n)
            for learner, n in zip(learners, (1, parts), strict=True)
        )
        torch.testing.assert_close(whole, divided, rtol=1e-7, atol=0)
    ours, theirs = ([p.grad for p in each.networks.parameters()] for each in learners)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-8)


# Losses that are not finite


def poisoned(**options: Any) -> dict[str, Batch]:
    given = batches(**options)
    given["mri"].images[0, 0, 3, 3] = torch.nan
    return given


def test_a_step_whose_loss_is_not_finite_changes_nothing_that_is_trained():
    learner = make_joint()
    for seed in range(3):
        take_step(learner, batches(seed=seed))
    before = state(learner)
    losses = take_step(learner, poisoned())
    assert any(not torch.isfinite(loss) for loss in losses.values())
    after = state(learner)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    trained = {name for name, _ in learner.networks.named_parameters()}
    assert not changed & trained
    assert not {name for name in changed if ".exp_avg" in name or name.endswith(".step")}
    for name, buffer in learner.buffers.items():
        assert torch.isfinite(buffer.state()["images"]).all(), name
    take_step(learner, batches())  # and it goes on
    assert not torch.equal(state(learner)["mri.g.layers.1.weight"], before["mri.g.layers.1.weight"])


def test_skipped_steps_are_counted_and_leave_the_means_and_batch_norms_sound():
    learner = make_joint()
    heard: list[Event] = []
    step_runner = make_step_runner(learner, heard)
    step_runner.step(batches(seed=1))
    alone = step_runner.collect()
    sound = {n: b.clone() for n, b in learner.networks.named_buffers()}
    step_runner.step(poisoned())
    spoiled = step_runner.collect()
    assert (alone.steps, alone.skipped, spoiled.steps, spoiled.skipped) == (1, 0, 1, 1)
    assert alone.losses
    assert spoiled.losses == {}
    assert [e.text for e in heard if isinstance(e, Warned)] == [
        "Skipped 1 step with a loss that was not finite."
    ]
    for name, buffer in learner.networks.named_buffers():
        if buffer.is_floating_point():
            assert torch.isfinite(buffer).all(), name
            if "running" in name:
                assert torch.equal(buffer, sound[name]), name
    step_runner.step(poisoned())
    step_runner.step(batches(seed=1))
    mixed = step_runner.collect()
    assert (mixed.steps, mixed.skipped) == (2, 1)
    assert all(torch.isfinite(torch.tensor(list(mixed.losses.values()))))


def test_a_run_of_skipped_steps_ends_the_training():
    step_runner = make_step_runner(make_joint())
    for _ in range(SKIPPED_IN_A_ROW - 1):
        step_runner.step(poisoned(size=2))
    step_runner.collect()
    step_runner.step(batches(2))  # one sound step, and counting begins again
    for _ in range(SKIPPED_IN_A_ROW - 1):
        step_runner.step(poisoned(size=2))
    step_runner.collect()
    step_runner.step(poisoned(size=2))
    with pytest.raises(
        ModelError, match=f"the last {SKIPPED_IN_A_ROW} steps had a loss that was not"
    ):
        step_runner.collect()


# Memory that runs out


def limited(learner: Joint, most: int, kind: Callable[[str], Exception]) -> list[int]:
    """Let memory run out in the generator above a number of images; return the sizes tried."""
    tried: list[int] = []

    def check(network: nn.Module, given: tuple[Tensor]) -> None:
        tried.append(len(given[0]))
        if len(given[0]) > most:
            raise kind("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    # The second use of F: G has been computed and P and D have not.
    learner.networks["mri"].d_t.register_forward_pre_hook(check)
    return tried


@pytest.mark.parametrize("kind", [torch.OutOfMemoryError, RuntimeError])
@pytest.mark.parametrize(("most", "parts"), [(2, 2), (1, 4)])
def test_where_memory_runs_out_the_batch_is_divided_and_nothing_lost(
    kind: Callable[[str], Exception], most: int, parts: int
):
    learner, twin = make_joint(), make_joint()
    heard: list[Event] = []
    step_runner = make_step_runner(learner, heard)
    limited(learner, most, kind)
    for seed in range(3):
        step_runner.step(batches(seed=seed))
        take_step(twin, batches(seed=seed), parts=parts)
    assert step_runner.parts == parts
    texts = [event.text for event in heard if isinstance(event, Warned)]
    assert len(texts) == {2: 1, 4: 2}[parts]
    assert f"runtime.accumulate={parts}" in texts[-1]
    check_same(state(learner), state(twin))


def test_where_one_image_does_not_fit_the_error_names_what_saves_memory():
    learner = make_joint()
    limited(learner, 0, torch.OutOfMemoryError)
    with pytest.raises(ModelError, match="one image") as caught:
        make_step_runner(learner).step(batches(2))
    assert "runtime.recompute" in str(caught.value.hint)


def test_other_errors_are_not_taken_for_memory():
    learner = make_joint()
    learner.networks["mri"].d_t.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        make_step_runner(learner).step(batches(2))


# Compiling


@pytest.mark.parametrize("choice", ["auto", "off"])
def test_on_a_processor_nothing_is_compiled_unasked(monkeypatch: pytest.MonkeyPatch, choice: str):
    monkeypatch.setattr(StepRunner, "_rehearse", lambda *_: pytest.fail("it is rehearsed"))
    step_runner = make_step_runner(make_joint(), compile=choice)
    step_runner.prepare(batches(), steps=10**6)
    assert step_runner.compiled is False


def test_a_warning_names_the_error_with_which_everything_began():
    def fail() -> None:
        try:
            raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")
        except RuntimeError:
            raise RuntimeError("operation failed due to a previous error during capture")  # noqa: B904

    with pytest.raises(RuntimeError) as caught:
        fail()
    assert module._first_cause(caught.value) == "CUDA out of memory."


@pytest.mark.parametrize("compiled", [True, False])
def test_a_resumed_training_is_compiled_as_before(monkeypatch: pytest.MonkeyPatch, compiled: bool):
    tried = []
    monkeypatch.setattr(module, "try_compile", lambda network, _: tried.append(network))
    learner = make_joint()
    step_runner = StepRunner(
        learner,
        compute=CPU,
        runtime=RuntimeConfig(),
        listener=silent,
        position=TrainingProgress(compiled=compiled),
    )
    step_runner.prepare(batches(), steps=10**6)
    assert step_runner.compiled is compiled
    assert tried == ([learner.networks] if compiled else [])


def test_a_failing_compiler_leaves_the_network_as_it_was():
    learner, twin = make_joint(), make_joint()

    def fail(graph: Any, examples: Any) -> Any:
        raise OSError("g++ is not there")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiling, "BACKEND", fail)
        step_runner = make_step_runner(learner, heard := [], compile="on")
        step_runner.prepare(batches(), steps=10)
    assert step_runner.compiled is False
    assert "g++ is not there" in next(e.text for e in heard if isinstance(e, Warned))
    step_runner.step(batches())
    take_step(twin, batches())
    check_same(state(learner), state(twin))


def test_a_rehearsal_changes_nothing():
    learner = make_joint()
    for seed in range(2):
        take_step(learner, batches(seed=seed))
    before, random = state(learner), torch.get_rng_state()
    make_step_runner(learner)._rehearse(batches(seed=9))
    check_same(before, state(learner))
    assert torch.equal(random, torch.get_rng_state())
    assert all(parameter.grad is None for parameter in learner.networks.parameters())


def test_a_step_is_estimated_from_one_at_half_the_side(monkeypatch: pytest.MonkeyPatch):
    """By a clock on which a million pixels take a second."""
    clock = SimpleNamespace(now=0.0)
    whole = StepRunner._rehearse

    def rehearse(self: StepRunner, parts: Mapping[str, Batch]) -> None:
        whole(self, parts)
        clock.now += sum(batch.images.numel() for batch in parts.values()) / 1e6

    monkeypatch.setattr(StepRunner, "_rehearse", rehearse)
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    learner = make_joint()
    step_runner = make_step_runner(learner)
    large = {
        name: Batch(torch.rand(len(batch.labels), 1, 160, 160) * 2 - 1, batch.labels)
        for name, batch in batches().items()
    }
    before = state(learner)
    seconds = step_runner.estimate_seconds(large)
    assert seconds == pytest.approx(sum(batch.images.numel() for batch in large.values()) / 1e6)
    assert clock.now == pytest.approx(seconds / 4)
    check_same(before, state(learner))
    assert step_runner.estimate_seconds(batches()) == 0.0  # small images: steps are short


# The buffer's plan


def test_a_plan_in_parts_is_the_plan_of_the_whole():
    whole, parts = ImageBuffer(3, seed=5), ImageBuffer(3, seed=5)
    random = torch.Generator().manual_seed(0)
    for _ in range(30):
        fakes = torch.rand(5, 1, 2, 2, generator=random)
        whole.plan(5)
        parts.plan(5)
        divided = torch.cat([parts.exchange(piece) for piece in fakes.split(2)])
        assert torch.equal(whole.exchange(fakes), divided)
        whole.commit()
        parts.commit()
        assert torch.equal(whole.state()["images"], parts.state()["images"])


def test_an_exchange_can_be_taken_again():
    once, twice = ImageBuffer(3, seed=5), ImageBuffer(3, seed=5)
    for number in range(30):
        fakes = torch.full((2, 1, 2, 2), float(number))
        for buffer in (once, twice):
            buffer.plan(2)
        twice.exchange(fakes)
        twice.rewind()
        assert torch.equal(once.exchange(fakes), twice.exchange(fakes))
        once.commit()
        twice.commit()
