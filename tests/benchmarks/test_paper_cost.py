"""The forecast of the paper's study counts the operations that the textbook's step has."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks.paper_cost import IMAGES, make_data, study_lines
from benchmarks.reference import Sizes
from benchmarks.training import count_flops

from medxlate.study.begin import Grid

DEBUG = Sizes(width=8, blocks=2, discriminator_width=8, predictor="test_resnet")


def test_operations_and_steps_of_a_joint_training(tmp_path: Path) -> None:
    grid = Grid(("target-only", "joint"), ("mri",), repeats=3)
    alone, joint = study_lines(make_data(tmp_path, 64), grid, "mri", preset="debug")
    assert (joint.training, joint.sources, joint.count) == ("joint", "mri", 3)
    # two epochs, of the images of the paper less the twentieth and the tenth that judge
    assert joint.steps == 2 * round(0.85 * IMAGES["mri"])
    # batches of two images of each modality, of the preset's 32 px
    assert joint.step_flops == pytest.approx(2 * count_flops(DEBUG, 32), rel=0.01)
    assert 0 < alone.step_flops < 0.2 * joint.step_flops
    assert joint.flops == 3 * joint.steps * joint.step_flops
