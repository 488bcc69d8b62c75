"""Checkpoints of CycleGAN's code: the same translations, or a refusal in one line."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner, Result

import medxlate
import tiny
from cyclegan import save, trained
from medxlate.artifacts import state_dicts
from medxlate.artifacts.folder import load_generator
from medxlate.artifacts.importing import ImportResult, import_cyclegan
from medxlate.artifacts.info import read_model
from medxlate.base.errors import DataError, MedxlateError, ModelError, OutputError, UsageError
from medxlate.base.events import Event, Warned
from medxlate.cli.app import app
from medxlate.evaluation.evaluate import evaluate
from medxlate.inference.predict import predict
from medxlate.inference.translate import Translator
from medxlate.method.generator import Generator
from medxlate.training.train import train

GREY: dict[str, Any] = {
    "source": "mri",
    "target": "ct",
    "source_recipe": "as-is",
    "target_recipe": "as-is",
    "size": 64,
}
SMALL: dict[str, Any] = {"inputs": 1, "outputs": 1, "width": 4, "blocks": 1}


def imported(folder: Path, checkpoint: Path, **changes: Any) -> tuple[ImportResult, Generator]:
    result = import_cyclegan(checkpoint, out=folder / "model", **{**GREY, **changes})
    return result, load_generator(result.out, read_model(result.out), None)[1]


def grey(size: int = 64, seed: int = 0) -> Tensor:
    return torch.rand(2, 1, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def compare(ours: nn.Module, theirs: nn.Module, *, inputs: int, channel: int) -> None:
    with torch.no_grad():
        wanted = theirs(grey().expand(-1, inputs, -1, -1))[:, channel : channel + 1]
        found = ours(grey())
    assert wanted.std() > 0.2  # something is there to get wrong
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("inputs", "outputs", "width", "blocks", "dropout"),
    [
        (1, 1, 8, 6, False),
        (3, 3, 8, 9, False),
        (3, 3, 12, 6, True),
        (1, 1, 4, 9, True),
        (3, 1, 4, 6, False),
        (1, 3, 4, 6, False),
    ],
)
def test_the_imported_generator_is_the_checkpoints(
    tmp_path: Path, inputs: int, outputs: int, width: int, blocks: int, dropout: bool
):
    theirs = trained(inputs=inputs, outputs=outputs, width=width, blocks=blocks, dropout=dropout)
    result, ours = imported(tmp_path, save(tmp_path / "net.pth", theirs))
    compare(ours, theirs, inputs=inputs, channel=1 if outputs == 3 else 0)
    assert (result.width, result.blocks, result.dropout) == (width, blocks, dropout)
    assert (result.inputs, result.outputs) == (inputs, outputs)
    assert result.channel == (1 if outputs == 3 else None)


def test_the_papers_generator_is_the_checkpoints(tmp_path: Path):
    """Width 64: where our residual blocks compute by Winograd's algorithm."""
    theirs = trained(inputs=3, outputs=3, width=64, blocks=9, spread=0.02)
    _, ours = imported(tmp_path, save(tmp_path / "net.pth", theirs))
    compare(ours, theirs, inputs=3, channel=1)


@pytest.mark.parametrize("channel", [0, 1, 2])
def test_any_channel_of_a_colour_output_can_be_taken(tmp_path: Path, channel: int):
    theirs = trained(width=4, blocks=6)
    result, ours = imported(tmp_path, save(tmp_path / "net.pth", theirs), channel=channel)
    compare(ours, theirs, inputs=3, channel=channel)
    assert result.channel == channel


def old_names(network: nn.Module) -> dict[str, Tensor]:
    """The state dict as of DataParallel and torch 0.4, whose instance norms kept statistics."""
    state = dict(network.state_dict())
    for index, width in [(2, 4), (5, 8), (8, 16), (12, 8), (15, 4)]:
        state[f"model.{index}.running_mean"] = torch.full((width,), 5.0)
        state[f"model.{index}.running_var"] = torch.full((width,), 9.0)
        state[f"model.{index}.num_batches_tracked"] = torch.tensor(7)
    state["model.10.conv_block.2.running_mean"] = torch.full((16,), 5.0)
    return {f"module.{name}": value for name, value in state.items()}


@pytest.mark.parametrize("legacy", [False, True])
def test_old_checkpoints_are_read(tmp_path: Path, legacy: bool):
    theirs = trained(**SMALL)
    file = tmp_path / "net.pth"
    torch.save(old_names(theirs), file, _use_new_zipfile_serialization=not legacy)
    compare(imported(tmp_path, file)[1], theirs, inputs=1, channel=0)


def test_half_precision_becomes_float32(tmp_path: Path):
    theirs = trained(**SMALL).half().float()
    torch.save({k: v.half() for k, v in theirs.state_dict().items()}, tmp_path / "net.pth")
    _, ours = imported(tmp_path, tmp_path / "net.pth")
    compare(ours, theirs, inputs=1, channel=0)


def test_what_changes_is_told(tmp_path: Path):
    events: list[Event] = []
    file = save(tmp_path / "net.pth", trained(width=4, blocks=6, dropout=True))
    imported(tmp_path, file, listener=events.append)
    said = [event.text for event in events if isinstance(event, Warned)]
    assert len(said) == 2
    assert "green" in said[0]
    assert "dropout" in said[1]
    events.clear()
    imported(tmp_path / "b", save(tmp_path / "n.pth", trained(**SMALL)), listener=events.append)
    assert not events


# From file to file


def call(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def test_import_then_translate_gives_the_checkpoints_images(tmp_path: Path):
    theirs = trained(width=4, blocks=6)
    file = save(tmp_path / "latest_net_G_A.pth", theirs)
    pixels = tiny.noise(64, 64, seed=1)
    tiny.save(tmp_path / "in" / "a.png", pixels)
    result = call(
        "import", "cyclegan", file, "--source", "mri", "--target", "ct", "--size", "64", "--out",
        tmp_path / "model", "--source-recipe", "as-is", "--target-recipe", "as-is", "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == {
        "out": str(tmp_path / "model"), "width": 4, "blocks": 6, "inputs": 3, "outputs": 3,
        "channel": 1, "dropout": False,
    }  # fmt: skip
    result = call(
        "translate", tmp_path / "in", "--out", tmp_path / "o", "--model", tmp_path / "model"
    )
    assert result.exit_code == 0, result.output
    with PIL.Image.open(tmp_path / "o" / "a.png") as image:
        found = np.asarray(image)
    colour = torch.from_numpy(pixels).float().expand(1, 3, -1, -1) / 127.5 - 1
    with torch.no_grad():
        wanted = (theirs(colour)[0, 1].numpy() + 1) * 127.5
    assert found.dtype == np.uint8
    assert np.abs(found - wanted).max() < 0.51  # half a grey value, and rounding


def test_the_model_folder_says_what_it_is(tmp_path: Path):
    file = save(tmp_path / "net.pth", trained(**SMALL))
    result, _ = imported(tmp_path, file, target_recipe="ct", target_window=(40, 80))
    info = read_model(result.out)
    assert info.predictor is None
    assert info.method == "imported"
    assert (info.prepared_size, info.image_size) == (64, 64)
    assert info.target_recipe.output_range == (0, 80)
    assert info.target_recipe.unit == "HU"
    assert info.translators["mri"].recipe.kind == "as-is"
    assert {path.name for path in result.out.iterdir()} == {
        "README.md", "model.json", "translator-mri.safetensors"
    }  # fmt: skip
    assert str(tmp_path) not in (result.out / "README.md").read_text()


def test_predict_says_that_the_model_only_translates(tmp_path: Path):
    result, _ = imported(tmp_path, save(tmp_path / "net.pth", trained(**SMALL)))
    tiny.save(tmp_path / "in" / "a.png", tiny.noise(64, 64, seed=1))
    with pytest.raises(ModelError, match="has no predictor: it only translates"):
        predict(tmp_path / "in", out=tmp_path / "p.csv", model=result.out)
    assert medxlate.import_cyclegan is import_cyclegan


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny dataset and a run of one epoch on it."""
    root = tmp_path_factory.mktemp("project")
    config = tiny.debug_config(tiny.write_dataset(root), optimizer={"epochs": 1, "batch_size": 2})
    train(config, runs=root / "runs", name="joint")
    return root


FROM_DATA: dict[str, Any] = {"source_recipe": None, "target_recipe": None, "size": None}


def test_recipes_and_size_come_from_a_dataset(project: Path, tmp_path: Path):
    file = save(tmp_path / "net.pth", trained(**SMALL))
    result, _ = imported(tmp_path, file, data=project / "data", **FROM_DATA)
    info, trained_here = read_model(result.out), read_model(project / "runs" / "joint" / "model")
    for field in ("prepared_size", "image_size", "target", "target_recipe"):
        assert getattr(info, field) == getattr(trained_here, field)
    assert info.translators["mri"].recipe == trained_here.translators["mri"].recipe
    with pytest.raises(DataError, match=r"no modality 'pet'"):
        imported(tmp_path / "b", file, data=project / "data", **{**FROM_DATA, "source": "pet"})


def test_evaluate_measures_an_imported_translator_on_the_runs_test_part(
    project: Path, tmp_path: Path
):
    """The run's own generator under CycleGAN's names has the run's own FID, another has not."""
    run = project / "runs" / "joint"
    own = load_generator(run / "model", read_model(run / "model"), None)[1]
    names = {
        name: name.replace("layers.", "model.", 1).replace(".layers.", ".conv_block.")
        for name in own.state_dict()
    }
    torch.save({names[k]: v for k, v in own.state_dict().items()}, tmp_path / "same.pth")
    same, _ = imported(tmp_path / "a", tmp_path / "same.pth", data=project / "data", **FROM_DATA)
    file = save(tmp_path / "other.pth", trained(**SMALL))
    other, _ = imported(tmp_path / "b", file, data=project / "data", **FROM_DATA)
    wanted = evaluate(run, metrics=["fid"]).figure("fid", source="mri")
    found = evaluate(run, model=same.out)
    assert found.figure("fid", source="mri") == pytest.approx(wanted, rel=1e-6)
    assert {m.group for m in found.results.metrics} == {"translation", "tstr"}
    far = evaluate(run, model=other.out, metrics=["fid"]).figure("fid", source="mri")
    assert abs(far - wanted) > 0.01 * wanted
    with pytest.raises(UsageError, match=r"'mse' does not exist or does not apply to --model"):
        evaluate(run, model=same.out, metrics=["mse"])


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, "different recipes for mri"),
        ({"size": 64}, "of 64 px, but the run has ct images of 32 px"),
        ({"target": "pet"}, "makes pet images"),
        ({"source": "pet"}, "translates from pet, but the run has no pet images"),
    ],
)
def test_evaluate_refuses_a_model_for_other_images(
    project: Path, tmp_path: Path, changes: dict[str, Any], text: str
):
    file = save(tmp_path / "net.pth", trained(**SMALL))
    changes = {"size": 32, "source_recipe": "mr", **changes}
    result, _ = imported(tmp_path, file, **changes)
    with pytest.raises(ModelError, match=text):
        evaluate(project / "runs" / "joint", model=result.out)


# What is refused


class Evil:
    """Runs a command when it is unpickled."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.witness}",)


def refused(folder: Path, file: Path, text: str, **changes: Any) -> None:
    with pytest.raises(MedxlateError, match=text) as caught:
        imported(folder, file, **changes)
    assert "\n" not in caught.value.message
    assert str(file) in caught.value.message or changes
    assert not (folder / "model").exists()


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("beside", [False, True])
def test_code_in_a_file_is_not_run(tmp_path: Path, legacy: bool, beside: bool):
    content: Any = Evil(tmp_path / "witness")
    if beside:
        content = {**trained(**SMALL).state_dict(), "model.99.weight": content}
    file = tmp_path / "net.pth"
    torch.save(content, file, _use_new_zipfile_serialization=not legacy)
    refused(tmp_path, file, "more than tensors")
    assert not (tmp_path / "witness").exists()
    torch.load(file, weights_only=False)  # the file would do it
    assert (tmp_path / "witness").exists()


def test_a_whole_pickled_network_is_refused(tmp_path: Path):
    torch.save(trained(**SMALL), tmp_path / "net.pth")
    refused(tmp_path, tmp_path / "net.pth", "more than tensors")


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.999])
def test_a_truncated_file_is_refused(tmp_path: Path, legacy: bool, share: float):
    file = save(tmp_path / "net.pth", trained(**SMALL), legacy=legacy)
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    refused(tmp_path, file, "was not loaded")


def test_a_zip_of_something_else_is_refused(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "net.pth", "w") as archive:
        archive.writestr("letter.txt", "dear reader")
    refused(tmp_path, tmp_path / "net.pth", "was not loaded")


def test_an_archive_that_grows_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with zipfile.ZipFile(tmp_path / "net.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 10_000_000)
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it was loaded"))
    refused(tmp_path, tmp_path / "net.pth", "was not loaded")


def test_a_large_file_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with (tmp_path / "net.pth").open("wb") as stream:
        stream.truncate(state_dicts.LARGEST + 1)  # sparse: it takes no room
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it was loaded"))
    refused(tmp_path, tmp_path / "net.pth", "too much for a generator")


def test_a_tensor_larger_than_its_file_is_refused(tmp_path: Path):
    state = trained(**SMALL).state_dict()
    state["model.1.weight"] = torch.zeros(1).expand(2**40, 1, 7, 7)
    torch.save(state, tmp_path / "net.pth")
    refused(tmp_path, tmp_path / "net.pth", "larger than itself")


def unet() -> dict[str, Tensor]:
    return {"model.model.0.weight": torch.zeros(8, 3, 4, 4), "model.model.3.weight": torch.zeros(8)}


def patch_discriminator() -> dict[str, Tensor]:
    return {"model.0.weight": torch.zeros(8, 3, 4, 4), "model.0.bias": torch.zeros(8)}


def with_(changes: dict[str, Tensor | None], **options: Any) -> dict[str, Tensor]:
    state = {**trained(**{**SMALL, **options}).state_dict(), **changes}
    return {name: value for name, value in state.items() if value is not None}


@pytest.mark.parametrize(
    ("state", "text"),
    [
        (unet(), "U-Net"),
        (patch_discriminator(), "discriminator"),
        (with_({"model.6.filt": torch.zeros(4, 1, 3, 3)}), "anti-aliased"),
        (with_({}, norm=nn.BatchNorm2d, bias=False), "norm layers have weights"),
        (with_({}, norm=nn.Identity, bias=False), "no instance norm"),
        (with_({}, inputs=4), "4 channels"),
        (with_({}, outputs=2), "images do not have 1 or 3 channels"),
        (Generator(width=4, blocks=1).state_dict(), "its layers are not CycleGAN's"),
        (with_({"model.10.conv_block.5.weight": None}), "lacks model.10.conv_block.5.weight"),
        (
            with_({"model.10.conv_block.6.bias": None}, dropout=True),
            "lacks model.10.conv_block.6.bias",
        ),
        (with_({"model.99.bias": torch.zeros(1)}), "too much: 'model.99.bias'"),
        (with_({"model.4.weight": torch.zeros(8, 5, 3, 3)}), "model.4.weight has another shape"),
        (with_({"model.18.weight": torch.tensor(1.0)}), "1 or 3 channels"),
        (with_({"model.1.weight": torch.zeros(0, 1, 7, 7)}), "its layers are not"),
        (with_({"model.7.bias": torch.full((16,), torch.nan)}), "not finite"),
        (with_({"model.7.bias": torch.zeros(16, dtype=torch.int64)}), "not finite"),
        (with_({"model.1.weight": torch.zeros(4, 1, 7, 7, dtype=torch.complex64)}), "not finite"),
        (with_({"\x1b[2J\n": torch.zeros(1)}), r"too much: '.x1b\[2J.n'"),
        (with_({}, blocks=0), "residual blocks"),
        ({"weight": torch.zeros(3)}, "its layers are not"),
        ({}, "no named tensors"),
        ([torch.zeros(3)], "no named tensors"),
        ({"epoch": 3}, "no named tensors"),
    ],
)
def test_other_networks_are_refused_and_named(tmp_path: Path, state: Any, text: str):
    torch.save(state, tmp_path / "net.pth")
    refused(tmp_path, tmp_path / "net.pth", text)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"size": None}, "--size"),
        ({"size": 62}, "multiple of 4"),
        ({"source": "ct"}, "both source and target"),
        ({"source": "../x"}, "is not a valid modality name"),
        ({"source_recipe": None}, "--source-recipe"),
        ({"source_recipe": "auto"}, "Unknown recipe 'auto'"),
        ({"target_recipe": "mr"}, "as-is"),
        ({"target_window": (40, 80)}, "window"),
        ({"data": "nowhere"}, "already defines the recipes"),
        ({"channel": 1}, "--channel 1"),
    ],
)
def test_options_that_cannot_be_used_are_named(tmp_path: Path, changes: dict[str, Any], text: str):
    refused(tmp_path, save(tmp_path / "net.pth", trained(**SMALL)), text, **changes)


def test_a_missing_file_is_named(tmp_path: Path):
    refused(tmp_path, tmp_path / "no.pth", "does not exist")
    refused(tmp_path, tmp_path, "is not a file")


def test_an_existing_model_is_replaced_only_where_asked(tmp_path: Path):
    file = save(tmp_path / "net.pth", trained(**SMALL))
    imported(tmp_path, file)
    with pytest.raises(OutputError, match="--overwrite"):
        imported(tmp_path, file)
    assert imported(tmp_path, file, target="pet", overwrite=True)[0].out.is_dir()
    assert Translator(tmp_path / "model").info.target == "pet"


def test_other_codes_are_not_known(tmp_path: Path):
    result = call(
        "import", "cyclegam", "x", "--source", "mri", "--target", "ct", "--out", tmp_path / "m"
    )
    assert result.exit_code == 2
    assert "'cyclegam' is not 'cyclegan'" in result.output
    assert "'cyclegan'?" in result.output


def test_every_option_arrives(project: Path, tmp_path: Path):
    file = save(tmp_path / "net.pth", trained(width=4, blocks=1))
    result = call(
        "import", "cyclegan", file, "--source", "pet", "--target", "ct", "--out", tmp_path / "m",
        "--source-recipe", "pet", "--source-window", "4,8", "--target-recipe", "ct",
        "--target-window", "brain", "--size", "96", "--channel", "2",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    info = read_model(tmp_path / "m")
    assert info.translators["pet"].recipe.window == (4, 8)
    assert info.target_recipe.window == (40, 80)
    assert info.image_size == 96
    assert "Channel 2" in (tmp_path / "m" / "README.md").read_text()
    words = [
        "import",
        "cyclegan",
        file,
        "--source",
        "mri",
        "--target",
        "ct",
        "--out",
        tmp_path / "m",
    ]
    result = call(*words, "--data", project / "data", "--overwrite")
    assert result.exit_code == 0, result.output
    assert read_model(tmp_path / "m").image_size == tiny.SIZE
