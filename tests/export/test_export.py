"""Models in other programs' forms, and their cards."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from packaging.version import Version
from safetensors.numpy import load_file
from typer.testing import CliRunner

import tiny
from medxlate import Predictor, Translator, export_hub, export_onnx
from medxlate.artifacts.card import in_words, model_card
from medxlate.artifacts.info import ModelInfo, all_weights, read_model
from medxlate.artifacts.runs import RunFolder
from medxlate.base.errors import ModelError, OutputError, UsageError
from medxlate.base.events import Event, Warned
from medxlate.cli.app import app
from medxlate.config import Skip, Upsample
from medxlate.evaluation.results import Audit, Metric, Results, write_results
from medxlate.export import onnx as onnx_module
from medxlate.scrub.scrub import scrub
from medxlate.training.train import train


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_dataset(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    config = tiny.debug_config(data, optimizer={"epochs": 1}, split={"train": 0.5, "val": 0.3})
    return RunFolder(train(config, runs=tmp_path_factory.mktemp("runs")).run)


@pytest.fixture(scope="module")
def exporter() -> None:
    """Skip where torch's exporter is of another age than onnxscript, which is always the newest."""
    if Version(torch.__version__) < Version("2.14"):
        pytest.skip("with torch before 2.14, the export by today's onnxscript is not tested")


@pytest.fixture(scope="module")
def exported(run: RunFolder, exporter: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("onnx") / "out"
    export_onnx(run.path, out=out)
    return out


def figures(run: RunFolder, **changes: Any) -> Results:
    info = read_model(run.model)
    return Results(
        versions={"medxlate": "0"},
        method="joint",
        target="ct",
        model={weights.file: weights.sha256 for weights in all_weights(info)},
        images=12,
        patients=6,
        metrics=(
            Metric(
                group="prediction", name="mae", unit="years", level="patient", value=4.25, low=3.5,
                high=5.5, interval="bootstrap over 6 patients", n=6,
            ),
            Metric(group="prediction", name="mae", level="patient", value=9.5, of="constant", n=6),
            Metric(group="translation", name="fid", source="mri", reason="There are 12 images."),
        ),
        audits=(
            Audit(kind="jitter", source="mri", status="ok", rule="", sentence="It is still."),
        ),
        **changes,
    )  # fmt: skip


# Export after training


def test_a_trained_model_is_calibrated_on_its_validation_patients(run: RunFolder):
    info = read_model(run.model)
    assert info.predictor is not None
    split = json.loads(run.split.read_text())
    for found in (info.predictor.calibration, info.predictor.calibration_tta):
        assert found is not None
        assert (found.kind, found.reason) == ("conformal", "")
        assert info.trained_on is not None
        assert (found.patients, found.slices) == info.trained_on.val["ct"]
        assert 0 < found.patients == len(found.scores["patient"]) < 12
        assert found.slices == 2 * found.patients
    assert info.predictor.calibration != info.predictor.calibration_tta
    assert split


def test_images_that_were_divided_calibrate_nothing(data: Path, tmp_path: Path):
    config = tiny.debug_config(data, optimizer={"epochs": 1}, split={"policy": "image"})
    made = train(config, runs=tmp_path / "runs").run
    info = read_model(made / "model")
    assert info.predictor is not None
    assert info.predictor.calibration is not None
    assert "the split is by image" in info.predictor.calibration.reason
    card = (made / "model" / "README.md").read_text()
    assert "The split is by image" in card
    assert "None: the split is by image" in card


# ONNX


def test_networks_give_the_same_in_onnxruntime(run: RunFolder, exported: Path):
    assert {path.name for path in exported.iterdir()} == {
        "onnx.json", "predictor.onnx", "translator-mri.onnx",
    }  # fmt: skip
    images = np.random.default_rng(0).uniform(-1, 1, (5, 1, 32, 32)).astype(np.float32)
    networks = {
        "predictor": Predictor.load(run.path).network,
        "translator-mri": Translator.load(run.path).network,
    }
    for name, network in networks.items():
        session = onnxruntime.InferenceSession(str(exported / f"{name}.onnx"))
        for count in (1, 2, 5):
            (found,) = session.run(["outputs"], {"images": images[:count]})
            with torch.no_grad():
                wanted = network(torch.from_numpy(images[:count])).float().numpy()
            np.testing.assert_allclose(found, wanted, atol=2e-2 if name != "predictor" else 5e-2)


@pytest.mark.parametrize(("skip", "upsample"), [("unet", "bilinear"), ("both", "nearest")])
@pytest.mark.usefixtures("exporter")
def test_generators_with_skips_give_the_same_in_onnxruntime(
    tmp_path: Path, skip: Skip, upsample: Upsample
):
    model = tiny.write_tiny_model(tmp_path / "m", skip=skip, upsample=upsample)
    export_onnx(model, out=tmp_path / "out")
    session = onnxruntime.InferenceSession(str(tmp_path / "out/translator-mri.onnx"))
    network = Translator.load(model).network.float()
    images = np.random.default_rng(0).uniform(-1, 1, (5, 1, 32, 32)).astype(np.float32)
    for count in (1, 5):
        (found,) = session.run(["outputs"], {"images": images[:count]})
        with torch.no_grad():
            wanted = network(torch.from_numpy(images[:count])).numpy()
        assert wanted.std() > 0.1
        np.testing.assert_allclose(found, wanted, atol=1e-3)
    card = model_card(read_model(model))
    assert f"2 blocks, upsampling {upsample}, skip {skip}, weights of step 7." in card


def test_the_sidecar_says_how_to_read_and_what_was_compared(run: RunFolder, exported: Path):
    record = json.loads((exported / "onnx.json").read_text())
    info = read_model(run.model)
    assert info.predictor is not None
    found = {each["file"]: each for each in record["files"]}
    predictor, translator = found["predictor.onnx"], found["translator-mri.onnx"]
    assert predictor["output"]["head"] == info.predictor.head.model_dump(mode="json")
    assert translator["input"]["recipe"] == info.translators["mri"].recipe.model_dump(mode="json")
    assert translator["output"]["recipe"] == info.target_recipe.model_dump(mode="json")
    for each in found.values():
        assert 0 <= each["parity"]["random"] < 1e-4
        assert 0 <= each["parity"]["real"] < 1e-4


def test_onnx_files_say_nothing_of_the_machine(run: RunFolder, data: Path, exported: Path):
    assert scrub(exported, data=data).found == []
    for path in exported.glob("*.onnx"):
        content = path.read_bytes()
        for word in (str(Path.home()), "site-packages", ".py", str(Path(__file__).parents[2])):
            assert word.encode() not in content, word
        onnx.checker.check_model(str(path))


def test_outputs_that_differ_are_refused(
    run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(onnx_module, "_write", lambda _, path, __: path.touch())
    for differs in (0.1, float("nan")):
        monkeypatch.setattr(onnx_module, "_difference", lambda *_, by=differs: by)
        with pytest.raises(ModelError, match="differ by"):
            export_onnx(run.path, out=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_the_difference_is_seen(run: RunFolder, exported: Path):
    network = Translator.load(run.path).network.float()
    images = torch.rand(4, 1, 32, 32) * 2 - 1
    path = exported / "translator-mri.onnx"
    assert onnx_module._difference(network, path, images) < 1e-4
    with torch.no_grad():
        list(network.parameters())[-1].add_(0.05)  # the last convolution's bias
    assert onnx_module._difference(network, path, images) > 1e-3


def test_missing_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(onnx_module, "find_spec", lambda name: None if name == "onnx" else name)
    with pytest.raises(UsageError, match="needs onnx") as caught:
        export_onnx(tmp_path, out=tmp_path / "out")
    assert "pip install 'medxlate[onnx]'" in caught.value.hint


# Hub


def test_a_hubs_folder_has_what_hubs_look_for_and_loads(run: RunFolder, data: Path, tmp_path: Path):
    made = export_hub(run.path, out=tmp_path / "out", license_="cc-by-nc-4.0")
    assert made.files == [
        "README.md", "config.json", "model.json", "model.safetensors", "predictor.safetensors",
    ]  # fmt: skip
    pixels = tiny.noise(32, 32, seed=0)
    np.testing.assert_array_equal(
        Translator.load(made.out)(pixels), Translator.load(run.path)(pixels)
    )
    assert Predictor.load(made.out)(pixels).value == Predictor.load(run.path)(pixels).value
    assert "layers.1.weight" in load_file(made.out / "model.safetensors")
    config = json.loads((made.out / "config.json").read_text())
    assert (config["model_type"], config["sources"], config["target"]) == (
        "medxlate",
        ["mri"],
        "ct",
    )
    card = ModelCard.load(made.out / "README.md")
    assert (card.data.license, card.data.library_name) == ("cc-by-nc-4.0", "medxlate")
    assert card.data.pipeline_tag == "image-to-image"
    assert {"medical-imaging", "mri", "ct", "regression"} <= set(card.data.tags)
    assert card.data.eval_results is None
    assert scrub(made.out, data=data).found == []
    with pytest.raises(OutputError, match="exists"):
        export_hub(run.path, out=tmp_path / "out", license_="other")


def test_figures_of_an_evaluation_are_in_card_and_model_index(
    run: RunFolder, tmp_path: Path, data: Path
):
    copy = RunFolder(Path(shutil.copytree(run.path, tmp_path / "run")))
    copy.evaluation.mkdir()
    write_results(copy.evaluation, figures(run))
    made = export_hub(copy.path, out=tmp_path / "out", license_="other")
    text = (made.out / "README.md").read_text()
    front = yaml.safe_load(text.split("---")[1])
    (result,) = front["model-index"][0]["results"]
    (metric,) = result["metrics"]
    assert (metric["type"], metric["value"]) == ("mae", 4.25)
    assert metric["args"]["low"] == 3.5
    assert "| mae (per patient) | model | 4.25 years | 3.5 to 5.5 | 6 |" in text
    assert "There are 12 images." in text
    assert "It is still." in text
    assert made.metrics == 1
    assert scrub(made.out, data=data).found == []
    # Of other weights, the figures would be lies.
    write_results(copy.evaluation, figures(run).model_copy(update={"model": {"a": "b"}}))
    told: list[Event] = []
    again = export_hub(
        copy.path, out=tmp_path / "out", license_="other", overwrite=True, listener=told.append
    )
    assert again.metrics == 0
    assert any("other weights" in each.text for each in told if isinstance(each, Warned))


def test_several_sources_keep_their_names_and_the_predictor_is_the_main_one(tmp_path: Path):
    model = tiny.write_tiny_model(tmp_path / "m", task=tiny.GROUP, sources=("mri", "pet"))
    made = export_hub(model, out=tmp_path / "out", license_="other")
    assert {"model.safetensors", "translator-mri.safetensors", "translator-pet.safetensors"} <= set(
        made.files
    )
    config = json.loads((made.out / "config.json").read_text())
    assert config["id2label"] == {"0": "middle", "1": "old", "2": "young"}
    for source in ("mri", "pet"):
        Translator.load(made.out, source=source)
    (model / "predictor.safetensors").write_bytes(b"damaged")
    with pytest.raises(ModelError, match="damaged"):
        export_hub(model, out=tmp_path / "again", license_="other")


def test_the_command_writes_both_and_asks_for_a_license(run: RunFolder, tmp_path: Path):
    call = CliRunner().invoke
    out = str(tmp_path / "hub")
    refused = call(app, ["export", "hub", str(run.path), "--out", out])
    assert (refused.exit_code, "--license" in refused.output) == (2, True)
    assert call(app, ["export", "hubb", str(run.path), "--out", out]).exit_code == 2
    words = ["export", "hub", str(run.path), "--out", out, "--license", "mit", "--json"]
    done = call(app, words)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["out"] == out


# Cards


def test_the_card_says_what_the_model_is_for_and_not_for(run: RunFolder):
    card = (run.model / "README.md").read_text()
    info = read_model(run.model)
    assert card == model_card(info)
    for part in ("Intended use", "Training data", "Calibration", "Limitations", "How to load"):
        assert f"## {part}" in card
    assert "**Not for diagnosis**" in card
    assert info.trained_on is not None
    patients, slices = info.trained_on.train["ct"]
    assert f"| ct | training | {patients} | {slices} |" in card
    assert "which needs 9 patients" in card  # at 90 %
    assert 'Translator.load("THIS_FOLDER")(volume)' in card


def test_recipes_are_told_in_words():
    ct = tiny.AS_IS.model_copy(update={"kind": "ct", "window": (40, 400), "unit": "HU"})
    mr = tiny.AS_IS.model_copy(update={"kind": "mr", "percentiles": (0.5, 99.5), "n4": True})
    assert in_words(ct).startswith("-160 to 240 HU are mapped to black to white")
    assert "percentiles 0.5 and 99.5 of each volume" in in_words(mr)
    assert "after N4 bias correction" in in_words(mr)
    assert "8-bit" in in_words(tiny.AS_IS)


def test_cards_of_older_models_say_what_is_not_known(tmp_path: Path):
    info: ModelInfo = read_model(tiny.write_tiny_model(tmp_path / "m"))
    card = model_card(info)
    assert "Unknown." in card
    assert "None: the model was made without it." in card


def test_a_trained_model_knows_the_range_of_its_training_labels(run: RunFolder, data: Path):
    """Against the labels of training patients, by the split file and the index themselves."""
    split = json.loads((run.path / "split.json").read_text())
    found: list[float] = []
    for modality in ("mri", "ct"):
        table = pd.read_parquet(data / modality / "slices.parquet")
        found += table.loc[table["patient"].isin(split["patients"]["train"]), "label"].tolist()
    head = read_model(run.model).predictor.head
    assert head.span == (min(found), max(found))
