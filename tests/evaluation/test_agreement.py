"""FID, KID and IS of two folders are those of the tools of the field, given equal weights."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks import agreement


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Inception with random weights that all tools are given."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    torch.save(agreement.random_inception(), path)
    return path


@pytest.mark.nightly
def test_figures_are_those_of_other_tools(tmp_path: Path, weights: Path) -> None:
    # As wide as Inception sees them, so that no tool's way of resizing counts.
    folders = agreement.write_folders(tmp_path, 12, 299)
    ours = agreement.by_medxlate(folders, weights)
    # Random weights may see no difference at all, and then every tool agrees.
    assert ours["fid"] > 1
    assert ours["kid"] > 0.01
    assert ours["is"] > 1.001
    assert agreement.by_torch_fidelity(folders, weights) == pytest.approx(ours, rel=1e-3)
    pytest.importorskip("pytorch_fid")
    pytest.importorskip("cleanfid")
    fitting = tmp_path / "folded.pth"
    torch.save(agreement.folded(torch.load(weights)), fitting)
    for take in (agreement.by_pytorch_fid, agreement.by_clean_fid):
        assert take(folders, fitting) == {"fid": pytest.approx(ours["fid"], rel=1e-3)}


def test_images_are_resized_as_torch_fidelity_does(tmp_path: Path, weights: Path) -> None:
    folders = agreement.write_folders(tmp_path, 4, 96)
    ours, theirs = (
        take(folders, weights) for take in (agreement.by_medxlate, agreement.by_torch_fidelity)
    )
    assert ours["fid"] > 1
    for name in ("fid", "kid"):  # of four images they take no IS
        assert ours[name] == pytest.approx(theirs[name], rel=1e-3)
