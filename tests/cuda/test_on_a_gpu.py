"""What only a real GPU can show: that its steps, captured and compiled, are the processor's.

Tolerances: float32 on the two devices adds up in another order, and a few steps of Adam enlarge
that; bfloat16 keeps 8 bits, of which sums in another order lose the last.
"""

from __future__ import annotations

import pytest
import torch

from medxlate.base.device import Compute, choose_compute, tuned_convolutions
from medxlate.inference.engine import Engine, run
from medxlate.method.generator import Generator
from medxlate.method.placing import place
from medxlate.training.step import take_step
from stepping import batches, make_joint, make_step_runner

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]
STEPS = 12
LOSS = {"fp32": 1e-2, "bf16": 6e-2}  # relative, of the mean over the steps
PIXEL = 1e-3  # of [-1, 1], in float32


def gpu(precision: str) -> Compute:
    return choose_compute("cuda", precision)


@pytest.mark.parametrize(
    ("precision", "size", "compiled"),
    [("fp32", 1, False), ("fp32", 4, False), ("bf16", 2, False), ("bf16", 2, True)],
)
def test_captured_steps_are_the_eager_ones(precision: str, size: int, compiled: bool) -> None:
    compute = gpu(precision)
    captured, eager = (make_joint(compute=compute, together=True) for _ in range(2))
    runner = make_step_runner(captured, compute=compute, compile="on")
    plain = make_step_runner(eager, compute=compute, compile="off")
    if not compiled:
        runner.compiled = False  # capture alone
    with tuned_convolutions(compute.device):
        for seed in range(STEPS):
            given = {n: b.to(compute.device) for n, b in batches(size, seed=seed).items()}
            runner.step(given)
            plain.step(given)
    assert runner.compiled is compiled
    assert runner._captured is not None
    assert runner._captured._graph is not None
    ours, theirs = runner.collect(), plain.collect()
    assert ours.steps == theirs.steps == STEPS
    assert ours.losses == pytest.approx(theirs.losses, rel=LOSS[precision])


def test_steps_in_float32_are_those_of_the_processor() -> None:
    found = []
    for compute in (gpu("fp32"), Compute(torch.device("cpu"), "fp32")):
        torch.manual_seed(0)
        learner = make_joint(compute=compute)
        losses = []
        for seed in range(3):
            given = {n: b.to(compute.device) for n, b in batches(4, seed=seed).items()}
            losses.append({k: v.item() for k, v in take_step(learner, given).items()})
        found.append(losses)
    for step, (ours, theirs) in enumerate(zip(*found, strict=True)):
        assert ours == pytest.approx(theirs, rel=1e-4 * 10**step), f"step {step}"


def test_a_step_does_not_wait() -> None:
    compute = gpu("bf16")
    learner = make_joint(compute=compute)
    given = {name: batch.to(compute.device) for name, batch in batches().items()}
    take_step(learner, given)  # the first step may allocate and tune
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            take_step(learner, given)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_translations_are_the_processors_and_nothing_waits_between() -> None:
    compute = gpu("fp32")
    network = Generator(width=8, blocks=2).eval()
    images = (torch.rand(10, 1, 32, 32) * 2 - 1).pin_memory()
    wanted = run(network, [images], compute=Compute(torch.device("cpu"), "fp32"))
    engine = Engine(place(network, compute), compute, batch_size=4)
    pending = [engine.start(part) for part in images.split(3)]
    found = torch.cat([part.wait() for part in pending])
    torch.testing.assert_close(found, wanted, rtol=0, atol=PIXEL)
    assert not found.is_pinned()
