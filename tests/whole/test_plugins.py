"""Parts of other packages: found, used, recorded; missing, broken, offered twice."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from typer.testing import CliRunner

import medxlate
import tiny
from medxlate import extend
from medxlate.artifacts.info import read_model
from medxlate.base import plugins
from medxlate.base.errors import ConfigError, ModelError, OutputError, UsageError
from medxlate.base.events import Event, Warned
from medxlate.base.plugins import PluginError
from medxlate.cli import complete
from medxlate.cli.app import app
from medxlate.dataset.index import Dataset
from medxlate.dataset.layouts import LAYOUTS, apply_layout
from medxlate.dataset.options import PrepareOptions
from medxlate.dataset.prepare import prepare
from medxlate.doctor import examine
from medxlate.images.recipes import KINDS, Recipe
from medxlate.inference.predictor import Predictor
from medxlate.method.added import AddedLoss
from medxlate.method.generator import GeneratorShape, build_generator
from medxlate.method.objective import l_trans
from medxlate.method.predictor import PredictorNetwork, has_batch_norm
from medxlate.method.registry import METHODS, find_method
from medxlate.method.translator import TranslatorNetworks
from medxlate.study.begin import Grid
from plugging import EXAMPLE, forget, on_path, write_example, write_package

LOSSES = {"losses": {"gradient-difference": 0.5}}
PREDICTOR = """
from torch import nn


class Pooled(nn.Module):
    def __init__(self, *, width: int = 8):
        super().__init__()
        self.num_features = width
        self.layers = nn.Sequential(
            nn.Conv2d(1, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        )

    def forward(self, images):
        return self.layers(images)
"""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Path]:
    """A folder whose packages are installed."""
    folder = tmp_path / "site"
    folder.mkdir()
    with on_path(folder):
        yield folder


def installed_now() -> None:
    plugins.installed.cache_clear()


def texts(events: list[Event]) -> str:
    return " ".join(event.text for event in events if isinstance(event, Warned))


# What is named is loaded, and nothing else.


def test_a_part_that_nobody_names_is_never_imported(tmp_path: Path):
    """Neither by import, help, completion, doctor nor by a training of medxlate's own parts."""
    parts = {
        kind: {"bad": "acme:bad", "joint": "acme:bad", "ct": "acme:bad"} for kind in plugins.KINDS
    }
    write_package(tmp_path / "site", parts, "raise RuntimeError('imported')")
    data = tiny.write_dataset(tmp_path)
    code = f"""
import sys
import medxlate, medxlate.extend
from medxlate.cli.app import app
from medxlate.cli.complete import METHODS, and_plugins
from medxlate.doctor import examine
from medxlate.config import resolve
from typer.testing import CliRunner
assert CliRunner().invoke(app, ["train", "--help"]).exit_code == 0
assert "medxlate.base.plugins" not in sys.modules or not sys.modules[
    "medxlate.base.plugins"].installed.cache_info().currsize, "metadata was read for nothing"
assert and_plugins(METHODS, "methods")("ba") == ["bad"]
overrides = dict(data=dict(folder={str(data)!r}, sources=["mri"], target="ct"),
    split=dict(sources="divided"), runtime=dict(device="cpu"), optimizer=dict(epochs=1))
medxlate.train(resolve(preset="debug", overrides=overrides), runs={str(tmp_path / "runs")!r})
assert any("acme" in check.name for check in examine({str(tmp_path)!r}))
assert "acme" not in sys.modules
"""
    path = os.pathsep.join([*sys.path, str(tmp_path / "site")])
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_names_of_medxlate_win(site: Path):
    write_package(site, {"methods": {"joint": "acme:joint"}}, "raise RuntimeError")
    installed_now()
    assert find_method("joint") is METHODS["joint"]
    note = next(c for c in examine(site, {}) if c.name == "plug-in acme" and c.state == "note")
    assert "method joint is never used" in note.found


def test_what_cannot_be_imported_is_named_with_its_cause(site: Path):
    write_package(
        site, {"methods": {"own": "acme:own"}}, "\nimport nowhere_at_all\n", version="2.5"
    )
    installed_now()
    with pytest.raises(PluginError) as caught:
        find_method("own")
    for part in ("method 'own' of acme 2.5", "acme:own", "No module named 'nowhere_at_all'"):
        assert part in caught.value.message
    assert "acme.py, line 2" in caught.value.message
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("own = 3", "acme:own is int, not a medxlate.extend.Method"),
        ("", "has no attribute 'own'"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("from medxlate.extend import Method; own = Method(None)", "does not say how it is built"),
    ],
)
def test_an_object_that_is_no_method_is_refused(site: Path, code: str, said: str):
    write_package(site, {"methods": {"own": "acme:own"}}, code)
    installed_now()
    with pytest.raises(PluginError, match=said):
        find_method("own")


def test_two_packages_with_one_name_are_refused_naming_both(site: Path):
    write_package(site, {"methods": {"own": "acme:own"}})
    write_package(site, {"methods": {"own": "other:own"}}, name="other", version="7")
    installed_now()
    with pytest.raises(PluginError, match=r"two packages: acme 1\.0 and other 7"):
        find_method("own")
    problem = next(c for c in examine(site, {}) if c.state == "problem" and "plug-in" in c.name)
    assert "two packages" in problem.found


def test_a_package_that_is_on_the_path_twice_counts_once(site: Path, tmp_path: Path):
    for folder, version in ((site, "2.0"), (tmp_path / "later", "1.0")):
        write_package(folder, {"methods": {"own": "acme:own"}}, version=version)
    sys.path.append(str(tmp_path / "later"))
    try:
        installed_now()
        found = plugins.find("methods", "own")
    finally:
        sys.path.remove(str(tmp_path / "later"))
    assert found is not None
    assert found.version == "2.0"


def test_a_package_for_another_protocol_is_refused(site: Path):
    write_package(site, {"methods.2": {"own": "acme:own"}}, version="3.1")
    installed_now()
    with pytest.raises(PluginError, match=r"acme 3\.1 is made for protocol 2"):
        find_method("own")
    assert plugins.names("methods") == []


def test_errors_and_completion_know_the_names(site: Path):
    write_example(site)
    installed_now()
    with pytest.raises(ConfigError, match="Did you mean 'inverted-mix'"):
        find_method("inverted-mic")
    with pytest.raises(ConfigError, match="Did you mean 'residual'"):
        build_generator("residul", GeneratorShape(8, 1))
    assert complete.and_plugins(complete.METHODS, "methods")("inv") == ["inverted-mix"]
    assert complete.and_plugins(complete.RECIPES, "recipes")("") == [*KINDS, "z-score"]
    assert complete.and_plugins(complete.LAYOUTS, "layouts")("") == list(LAYOUTS)
    listed = next(c for c in examine(site, {}) if c.name == "plug-in medxlate-example")
    assert listed.found.startswith("version 0.1.0, ")
    assert "loss gradient-difference" in listed.found
    assert "medxlate_example" not in sys.modules


def test_the_hash_is_of_all_files_of_the_package(site: Path, tmp_path: Path):
    def package(root: Path) -> Path:
        write_package(root, {"methods": {"own": "acme.inner.deep:own"}})
        (root / "acme.py").unlink()
        (root / "acme" / "inner").mkdir(parents=True)
        for name in ("__init__.py", "inner/__init__.py", "inner/deep.py", "weights.bin"):
            (root / "acme" / name).write_text(name)
        return root / "acme"

    def hashed() -> str:
        installed_now()
        found = plugins.find("methods", "own")
        assert found is not None
        return plugins.hash_of(found)

    here = package(site)
    for name in ("__init__.py", "inner/__init__.py", "inner/deep.py"):
        (here / name).write_text("")
    before = hashed()
    (here / "__pycache__").mkdir(exist_ok=True)
    (here / "__pycache__" / "x.pyc").write_text("compiled")
    assert hashed() == before
    (here / "weights.bin").write_text("others")
    assert hashed() != before


# Settings.


def test_settings_are_checked(site: Path):
    write_example(site)
    installed_now()
    shape = GeneratorShape(4, 1)
    assert build_generator("residual", shape, {"kernel": 3}).layers[0].kernel_size == (3, 3)  # type: ignore[index,union-attr]
    with pytest.raises(ConfigError, match=r"no setting 'kernl'.*Did you mean 'kernel'"):
        build_generator("residual", shape, {"kernl": 3})
    with pytest.raises(ConfigError, match="no path"):
        build_generator("residual", shape, {"kernel": "/home/somebody/weights"})
    with pytest.raises(
        PluginError,
        match=r"medxlate-example 0\.1\.0 \(medxlate_example:Residual\) failed: TypeError",
    ):
        build_generator("residual", shape, {"kernel": "three"})


def test_settings_of_nothing_are_refused(site: Path, tmp_path: Path):
    write_example(site)
    installed_now()
    config = tiny.debug_config(tmp_path, plugins={"residul": {"kernel": 3}})
    with pytest.raises(ConfigError, match=r"plugins\.residul.*Did you mean 'residual'"):
        medxlate.train(config, runs=tmp_path / "runs")


# Losses and generators.


def test_an_added_loss_is_weighted_and_reaches_the_generator():
    torch.manual_seed(0)
    networks = TranslatorNetworks(width=4, blocks=1, discriminator_width=4, discriminator_layers=1)
    y, x = (torch.rand(2, 1, 32, 32) * 2 - 1 for _ in range(2))

    def gradient(weight: float) -> tuple[torch.Tensor, dict[str, torch.Tensor], torch.Tensor]:
        added = [AddedLoss("far", weight, lambda i: (i.fake_t - i.y).square().mean(), False)]
        networks.zero_grad()
        made = l_trans(
            networks,
            y,
            x,
            medxlate.Config().objective,
            judged=lambda images: images,
            noisy=lambda images: images,
            apply=lambda network, batches: [network(batch) for batch in batches],
            added=added if weight else (),
        )
        made.loss.backward()  # type: ignore[no-untyped-call]
        parameter = next(networks.g.parameters()).grad
        assert parameter is not None
        return parameter.clone(), made.terms, made.fake_t

    without, terms, _ = gradient(0)
    assert "added_far" not in terms
    once, terms, fake_t = gradient(1.0)
    assert torch.isclose(terms["added_far"], (fake_t - y).square().mean())
    thrice, _, _ = gradient(3.0)
    torch.testing.assert_close(thrice - without, 3 * (once - without), rtol=1e-3, atol=1e-6)
    assert not torch.allclose(once, without)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("images.fake_t", r"gave \[2, 1, 32, 32\], not a scalar"),
        ("3.0", "gave float, not a scalar"),
        ("images.nothing", "AttributeError: 'StepImages' object has no attribute 'nothing'"),
    ],
)
def test_a_loss_that_gives_anything_else_is_refused(code: str, said: str):
    images = extend.StepImages(*(torch.zeros(2, 1, 32, 32) for _ in range(3)))
    loss = AddedLoss("bad", 1.0, eval(f"lambda images: {code}"), False)
    with pytest.raises(PluginError, match=said):
        loss(images)


def test_memory_that_runs_out_in_a_plugin_is_not_its_fault():
    def compute(images: extend.StepImages) -> torch.Tensor:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    loss = AddedLoss("large", 1.0, compute, False)
    with pytest.raises(RuntimeError, match="allocate memory"):
        loss(extend.StepImages(*(torch.zeros(2, 1, 32, 32) for _ in range(3))))


@pytest.fixture
def trained(site: Path, tmp_path: Path) -> Path:
    """A run with the example's loss and generator, below ``tmp_path``."""
    write_example(site)
    installed_now()
    config = tiny.debug_config(
        tiny.write_dataset(tmp_path),
        model={"generator": "residual", "generator_blocks": 1},
        objective=LOSSES,
        optimizer={"epochs": 1, "steps_per_epoch": 3},
        plugins={"residual": {"kernel": 3}},
    )
    return medxlate.train(config, runs=tmp_path / "runs", name="own").run


def test_a_run_and_its_model_name_the_plugins(trained: Path):
    kept = json.loads((trained / "plugins.json").read_text())
    assert {(each["kind"], each["name"]) for each in kept} == {
        ("losses", "gradient-difference"),
        ("generators", "residual"),
    }
    assert {(each["distribution"], each["version"]) for each in kept} == {
        ("medxlate-example", "0.1.0")
    }
    info = read_model(trained / "model")
    assert [each.model_dump() for each in info.plugins] == kept
    assert info.translators["mri"].settings == {"kernel": 3}
    card = (trained / "model" / "README.md").read_text()
    assert "the generator 'residual' of medxlate-example 0.1.0" in card
    assert "pip install medxlate-example==0.1.0" in card
    events = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert all(e["losses"]["mri.added_gradient-difference"] > 0 for e in events if "losses" in e)
    shown = CliRunner().invoke(app, ["runs", "show", "own", "--runs", str(trained.parent)])
    assert "medxlate-example 0.1.0" in shown.stdout
    medxlate.write_report(trained)
    page = (trained / "report.html").read_text()
    assert "gradient-difference, mri" in page  # the label of its line
    assert "medxlate-example 0.1.0" in page


def test_a_model_is_used_exported_and_refused_without_its_plugin(
    trained: Path, site: Path, tmp_path: Path
):
    raw, out = tmp_path / "raw" / "mri", tmp_path / "out"
    assert medxlate.translate(raw, model=trained, out=out, device="cpu").slices == 24
    if find_spec("onnxscript") is not None:
        medxlate.export_onnx(trained, out=tmp_path / "onnx")
    medxlate.export_bundle(trained, out=tmp_path / "bundle", license_="cc-by-4.0")
    metadata = json.loads((tmp_path / "bundle" / "configs" / "metadata.json").read_text())
    assert metadata["required_packages_version"]["medxlate-example"] == "0.1.0"
    for entry in site.iterdir():
        if entry.suffix == ".dist-info":
            entry.rename(tmp_path / entry.name)
    installed_now()
    with pytest.raises(ModelError) as caught:
        medxlate.translate(raw, model=trained, out=tmp_path / "other", device="cpu")
    assert "needs the generator 'residual' of medxlate-example 0.1.0" in caught.value.message
    assert "pip install 'medxlate-example==0.1.0'" in caught.value.hint
    # What needs no translator goes on.
    predicted = tmp_path / "predicted.csv"
    medxlate.predict(tmp_path / "raw" / "ct", model=trained, out=predicted, device="cpu")
    assert predicted.is_file()


def test_other_files_warn_where_a_model_is_used_and_stop_a_training(
    trained: Path, site: Path, tmp_path: Path
):
    module = site / "medxlate_example.py"
    module.write_text(module.read_text() + "\nCHANGED = True\n")
    forget(site)
    events: list[Event] = []
    medxlate.translate(
        tmp_path / "raw" / "mri",
        model=trained,
        out=tmp_path / "out",
        device="cpu",
        listener=events.append,
    )
    assert "its files are different" in texts(events)
    with pytest.raises(ModelError, match="begun with other files of the"):
        medxlate.resume(trained)


def test_another_version_of_the_same_files_goes_on_with_a_warning(trained: Path, site: Path):
    info = next(site.glob("*.dist-info"))
    info.rename(site / "medxlate_example-0.2.0.dist-info")
    metadata = site / "medxlate_example-0.2.0.dist-info" / "METADATA"
    metadata.write_text(metadata.read_text().replace("0.1.0", "0.2.0"))
    installed_now()
    events: list[Event] = []
    medxlate.resume(trained, listener=events.append)
    assert "version 0.2.0 is here, its files are the same" in texts(events)


def test_another_package_with_that_name_does_not_stand_in(
    trained: Path, site: Path, tmp_path: Path
):
    next(site.glob("*.dist-info")).rename(tmp_path / "away")
    code = "from medxlate_example import *"
    parts = {"generators": {"residual": "acme:Residual"}}
    write_package(site, parts, code)
    installed_now()
    with pytest.raises(ModelError, match="that of acme is another one"):
        medxlate.Translator.load(trained)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ("images[:, :, :16]", r"gave \[1, 1, 16, 32\] for images"),
        ("images * 2", r"outside of \[-1, 1\]"),
        ("1 / 0", "ZeroDivisionError"),
    ],
)
def test_a_generator_that_gives_no_images_is_refused_before_training(
    site: Path, tmp_path: Path, made: str, said: str
):
    code = f"""
from torch import nn


class Own(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.weight = nn.Conv2d(1, 1, 1)

    def forward(self, images):
        return {made}
"""
    write_package(site, {"generators": {"own": "acme:Own"}}, code)
    installed_now()
    config = tiny.debug_config(tiny.write_dataset(tmp_path), model={"generator": "own"})
    with pytest.raises(PluginError, match=said):
        medxlate.train(config, runs=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_a_hostile_record_never_becomes_a_command(trained: Path):
    path = trained / "model" / "model.json"
    path.write_text(path.read_text().replace('"medxlate-example"', '"x; rm -rf ~"'))
    with pytest.raises(ModelError, match="damaged"):
        read_model(trained / "model")


# Methods.


def test_a_method_shows_what_it_says_and_is_compared(site: Path, tmp_path: Path):
    write_example(site)
    installed_now()
    data = tiny.write_dataset(tmp_path)
    seen = Dataset(data).modality("mri")
    config = tiny.debug_config(data, method="inverted-mix", optimizer={"epochs": 1})
    stand_in = find_method("inverted-mix").stand_in
    assert stand_in is not None
    from medxlate.dataset.training_data import make_split, open_modalities
    from medxlate.training.setup import make_inputs, set_up

    tables = open_modalities(Dataset(data), config)
    split = make_split(Dataset(data), tables, config)
    shown = set_up(make_inputs(config, Dataset(data), tables, split)).data.train["mri"]
    stored = seen.read(shown.rows[:3])
    images = shown.batch([0, 1, 2]).images[:, 0].numpy()
    np.testing.assert_allclose(images, 1 - 2 * (stored / 255), atol=1e-6)
    grid = Grid(methods=["inverted-mix+simple-augment", "target-only"], repeats=2)
    found = medxlate.compare(
        tiny.debug_config(data, optimizer={"epochs": 1, "steps_per_epoch": 1}),
        grid,
        out=tmp_path / "study",
    )
    assert (found.cells, found.failed) == (4, {})
    assert found.study.methods == ("target-only", "inverted-mix+simple-augment")
    kept = json.loads((tmp_path / "study" / "study.json").read_text())["plugins"]
    assert [each["name"] for each in kept] == ["inverted-mix"]
    module = site / "medxlate_example.py"
    module.write_text(module.read_text() + "\nCHANGED = True\n")
    forget(site)
    with pytest.raises(ModelError, match="begun with other files"):
        medxlate.compare(None, out=tmp_path / "study")


# Predictors.


def test_a_predictor_trains_predicts_and_is_exported(site: Path, tmp_path: Path):
    write_package(site, {"predictors": {"pooled": "acme:Pooled"}}, PREDICTOR)
    installed_now()
    config = tiny.debug_config(
        tiny.write_dataset(tmp_path),
        method="target-only",
        model={"predictor": "pooled"},
        optimizer={"epochs": 1, "steps_per_epoch": 3},
        plugins={"pooled": {"width": 5}},
    )
    run = medxlate.train(config, runs=tmp_path / "runs", name="own").run
    info = read_model(run / "model")
    assert info.predictor is not None
    assert (info.predictor.architecture, info.predictor.settings) == ("pooled", {"width": 5})
    network = Predictor(run).network
    images = torch.rand(3, 1, 32, 32) * 2 - 1
    with torch.no_grad():
        features = network.features(images)
        assert features.shape == (3, network.feature_width) == (3, 5)
        torch.testing.assert_close(network.classify(features), network(images))
    medxlate.predict(tmp_path / "raw" / "ct", model=run, out=tmp_path / "p.csv", device="cpu")
    if find_spec("onnxscript") is not None:
        assert (
            medxlate.export_onnx(run, out=tmp_path / "onnx").parity["predictor.onnx"].random < 1e-4
        )


def test_predictors_take_group_norm_and_their_own_weights_alone(site: Path, tmp_path: Path):
    write_package(site, {"predictors": {"pooled": "acme:Pooled"}}, PREDICTOR)
    installed_now()
    assert has_batch_norm("pooled")
    network = PredictorNetwork(architecture="pooled", norm="group")
    assert not [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    with pytest.raises(ConfigError, match="timm has no weights for it"):
        PredictorNetwork(architecture="pooled", pretrained="imagenet")
    from safetensors.torch import save_file

    body = PredictorNetwork(architecture="pooled").backbone.body
    assert isinstance(body, torch.nn.Module)
    weights = {name: torch.full_like(value, 0.5) for name, value in body.state_dict().items()}
    save_file(weights, tmp_path / "w.safetensors")
    begun = PredictorNetwork(architecture="pooled", pretrained=str(tmp_path / "w.safetensors"))
    assert torch.all(next(begun.backbone.body.parameters()) == 0.5)  # type: ignore[union-attr]
    with pytest.raises(ConfigError, match="and no plug-in has"):
        PredictorNetwork(architecture="poled")


# Recipes.


def options(**changes: object) -> PrepareOptions:
    values = {"patient": r"regex:(p\d+)", "label": "age", "patient_column": "patient"}
    return PrepareOptions(**{**values, **changes})  # type: ignore[arg-type]


def write_images(root: Path) -> dict[str, np.ndarray]:
    root.mkdir(parents=True)
    lines, found = ["patient,age"], {}
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 200 + number, (32, 32), dtype=np.uint8)
        PIL.Image.fromarray(pixels).save(root / f"p{number}.png")
        found[f"p{number}.png"] = pixels
        lines.append(f"p{number},{40 + number}")
    (root / "labels.csv").write_text("\n".join(lines) + "\n")
    return found


def test_a_recipe_is_kept_with_the_dataset_and_used_again(site: Path, tmp_path: Path):
    write_example(site)
    installed_now()
    images = write_images(tmp_path / "raw")
    given = options(
        labels=tmp_path / "raw" / "labels.csv",
        recipe="z-score",
        recipe_settings={"deviations": 1.5},
    )
    data = tmp_path / "data"
    prepare(tmp_path / "raw", modality="mri", data=data, options=given, size=32)
    modality = Dataset(data).modality("mri")
    recipe = modality.info.recipe
    assert (recipe.kind, recipe.settings) == ("z-score", {"deviations": 1.5})
    assert recipe.plugin is not None
    assert recipe.plugin.distribution == "medxlate-example"
    for index, file in enumerate(modality.column("file")):
        values = images[file].astype(float)
        shown = values[values > values.mean()]
        low, high = (shown.mean() + sign * 1.5 * shown.std() for sign in (-1, 1))
        wanted = np.clip((values - low) / (high - low), 0, 1) * recipe.peak
        assert np.abs(modality.pixels(index) - wanted).max() <= 1
    again = prepare(tmp_path / "raw", modality="mri", data=data, options=given, size=32)
    assert again.state == "unchanged"
    # A model whose images it reads: as files, and as an array.
    model = tiny.write_tiny_model(tmp_path / "own", source_recipe=recipe)
    described = json.loads((model / "model.json").read_text())
    described["plugins"] = [recipe.plugin.model_dump()]
    (model / "model.json").write_text(json.dumps(described))
    out = tmp_path / "out"
    assert medxlate.translate(tmp_path / "raw", model=model, out=out, device="cpu").slices == 3
    assert medxlate.Translator.load(model)(images["p0.png"]).shape == (32, 32)
    next(site.glob("*.dist-info")).rename(tmp_path / "away")
    installed_now()
    with pytest.raises(ModelError, match="needs the recipe 'z-score' of medxlate-example"):
        medxlate.translate(tmp_path / "raw", model=model, out=tmp_path / "other", device="cpu")


def test_a_changed_recipe_prepares_anew(site: Path, tmp_path: Path):
    write_example(site)
    installed_now()
    write_images(tmp_path / "raw")
    given = options(labels=tmp_path / "raw" / "labels.csv", recipe="z-score")
    prepare(tmp_path / "raw", modality="mri", data=tmp_path / "data", options=given, size=32)
    module = site / "medxlate_example.py"
    module.write_text(
        module.read_text().replace("deviations: float = 2.0", "deviations: float = 1")
    )
    forget(site)
    with pytest.raises(OutputError, match="made from other files"):
        prepare(tmp_path / "raw", modality="mri", data=tmp_path / "data", options=given, size=32)


def test_an_image_that_a_recipe_refuses_is_left_out_with_the_reason(site: Path, tmp_path: Path):
    code = """
from medxlate.extend import ImageError, IntensityRecipe, sample


def limits(scan):
    if sample(scan).max() > 200:
        raise ImageError("it is too bright")
    return 0, 0 if sample(scan).max() < 100 else 200


own = IntensityRecipe(limits)
"""
    write_package(site, {"recipes": {"own": "acme:own"}}, code)
    installed_now()
    write_images(tmp_path / "raw")
    given = options(labels=tmp_path / "raw" / "labels.csv", recipe="own")
    data = tmp_path / "data"
    found = prepare(tmp_path / "raw", modality="mri", data=data, options=given, size=32)
    assert found.skipped == {"p2.png": "it is too bright"}
    PIL.Image.fromarray(np.eye(32, dtype=np.uint8)).save(tmp_path / "raw" / "p1.png")
    with pytest.raises(
        PluginError, match=r"recipe 'own' of acme 1\.0 \(acme:own\) gave 0 to 0: no range"
    ):
        prepare(tmp_path / "raw", modality="pet", data=data, options=given, size=32)


def test_words_of_the_command_line_become_settings(site: Path, tmp_path: Path):
    write_example(site)
    installed_now()
    write_images(tmp_path / "raw")
    words = ["prepare", tmp_path / "raw", "--modality", "mri", "--data", tmp_path / "data"]
    words += ["--labels", tmp_path / "raw" / "labels.csv", "--label", "age", "--size", 32]
    words += ["--patient", r"regex:(p\d+)", "--patient-column", "patient", "--recipe", "z-score"]
    line = [*map(str, words), "--recipe-set", "deviations=1.5"]
    done = CliRunner().invoke(app, line)
    assert done.exit_code == 0, done.output
    assert Dataset(tmp_path / "data").info.modalities["mri"].recipe.settings == {"deviations": 1.5}
    line = [word.replace(str(tmp_path / "data"), str(tmp_path / "other")) for word in line]
    wrong = CliRunner().invoke(app, [*line[:-1], "deviation=1"])
    assert wrong.exit_code == 2
    assert "Did you mean 'deviations'" in wrong.output


def test_recipe_settings_belong_to_plugins(tmp_path: Path):
    write_images(tmp_path / "raw")
    given = options(
        labels=tmp_path / "raw" / "labels.csv", recipe="mr", recipe_settings={"deviations": 1.5}
    )
    with pytest.raises(UsageError, match="applies to the recipes of plug-ins only"):
        prepare(tmp_path / "raw", modality="mri", data=tmp_path / "data", options=given)


def test_recipes_of_medxlate_are_written_as_before():
    recipe = Recipe(kind="ct", window=(40, 400), unit="HU")
    assert "plugin" not in recipe.model_dump(mode="json")
    assert "settings" not in recipe.model_dump_json()
    assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe


# Layouts.


def test_a_layout_fills_in_what_is_open(site: Path, tmp_path: Path):
    code = """
from dataclasses import replace


def own(modality, raw, options):
    return replace(options, label=options.label or "age", labels=raw / "labels.csv",
        patient=r"regex:(p\\d+)", patient_column="patient")


def bad(modality, raw, options):
    return None
"""
    parts = {"layouts": {"own": "acme:own", "bad": "acme:bad"}}
    write_package(site, parts, code)
    installed_now()
    write_images(tmp_path / "raw")
    found = prepare(tmp_path / "raw", modality="mri", data=tmp_path / "data", layout="own", size=32)
    assert found.patients == 3
    with pytest.raises(PluginError, match=r"acme 1\.0 .* gave a NoneType, not a PrepareOptions"):
        apply_layout("bad", "mri", tmp_path, PrepareOptions())
    with pytest.raises(UsageError, match=r"Unknown layout 'owm'.*Did you mean 'own'"):
        apply_layout("owm", "mri", tmp_path, PrepareOptions())


def test_the_example_stays_short():
    lines = (EXAMPLE / "src" / "medxlate_example.py").read_text().splitlines()
    assert len(lines) <= 60


def test_the_page_shows_the_example_as_it_is():
    page = (EXAMPLE.parents[1] / "docs" / "how-to" / "extend.md").read_text()
    code = (EXAMPLE / "src" / "medxlate_example.py").read_text()
    project = (EXAMPLE / "pyproject.toml").read_text()
    blocks = re.findall(r"```(python|toml)\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 5
    for language, block in blocks:
        assert block in (code if language == "python" else project)


def test_the_public_module_names_what_it_promises():
    assert extend.PROTOCOL == 1
    assert set(extend.__all__) == set(extend._HOMES)
    for name in extend.__all__:
        assert getattr(extend, name) is not None
    code = "import sys; from medxlate.extend import IntensityRecipe, Stack, sample, ImageError"
    done = [sys.executable, "-c", f"{code}; assert 'torch' not in sys.modules"]
    subprocess.run(done, check=True)
