"""Every loss that a step reports is declared, whatever the method and the phase."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import tiny
from medxlate.base.device import choose_compute
from medxlate.dataset.loading import Batch
from medxlate.method.label_transform import LabelTransform
from medxlate.method.registry import METHODS, STAGES, build_learner
from medxlate.method.terms import FAMILIES, TERMS, brief_names, find_term

EVERYTHING = {
    "lambda_identity": 1.0,
    "lambda_structure": 1.0,
    "lambda_predict": 1.0,
}
SCHEDULE = {"epochs": 10, "autoencode": 0.2, "warmup": 0.5}


def losses_of(method: str) -> set[str]:
    config = tiny.debug_config(
        Path("nowhere"), method=method, objective=EVERYTHING, optimizer=SCHEDULE
    )
    head = LabelTransform(task=tiny.AGE)
    learner = build_learner(config, head, tiny.SIZE, choose_compute("cpu", "fp32"))
    torch.manual_seed(0)
    batches = {
        name: Batch(torch.rand(2, 1, tiny.SIZE, tiny.SIZE) * 2 - 1, torch.rand(2))
        for name in learner.modalities
    }
    found: set[str] = set()
    for progress in (0.0, 0.3, 0.9):
        for buffer in learner.buffers.values():
            buffer.plan(2)
        found |= set(learner.backward(batches, progress=progress))
    return found


@pytest.mark.parametrize("method", [m for m in (*METHODS, *STAGES) if m != "constant"])
def test_every_reported_loss_is_declared(method: str):
    found = losses_of(method)
    assert found
    assert [name for name in found if find_term(name)[1] is None] == []


def test_every_declared_term_is_reported_by_some_method():
    methods = ("joint", "joint+simple-augment", "dann", "multitask")
    found = set().union(*(losses_of(method) for method in methods))
    assert {name.rpartition(".")[2] for name in found} == set(TERMS)
    of_plugins = {"added"}
    assert {term.family for term in TERMS.values()} | of_plugins == set(FAMILIES)


def test_the_console_shows_a_few_in_one_order():
    names = ["ct.unknown", "mri.cycle_s", "mri.d_t", "pet.adv_t", "mri.adv_t", "predict_real"]
    assert brief_names(names) == ["predict_real", "mri.adv_t", "pet.adv_t", "mri.cycle_s"]


def test_the_loss_of_a_plugin_is_called_as_the_plugin_is():
    source, term = find_term("mri.added_gradient-difference")
    assert source == "mri"
    assert term is not None
    assert (term.label, term.family) == ("gradient-difference", "added")
    names = ["mri.added_gradient-difference", "mri.cycle_s"]
    assert brief_names(names) == ["mri.cycle_s", "mri.added_gradient-difference"]


def test_a_source_may_have_any_name():
    assert find_term("t1.adv_t") == ("t1", TERMS["adv_t"])
    assert find_term("domain") == ("", TERMS["domain"])
    assert find_term("mri.of_tomorrow") == ("mri", None)
