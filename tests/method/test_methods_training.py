"""Every method trained from a dataset folder: what it starts from, what it is shown, what it makes.

Validation errors are made to rise, so that the best predictor is that of the first epoch.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from safetensors.torch import load_file
from skimage.exposure import match_histograms
from torch import Tensor, nn

import tiny
from medxlate.artifacts.folder import load_generator
from medxlate.artifacts.info import read_model
from medxlate.artifacts.runs import RunFolder
from medxlate.base.device import Compute
from medxlate.base.errors import ConfigError, MedxlateError, StoppedError
from medxlate.base.events import Event, Progress
from medxlate.dataset.index import Dataset
from medxlate.dataset.loading import Batch, Slices
from medxlate.dataset.options import PrepareOptions
from medxlate.dataset.prepare import prepare
from medxlate.dataset.splits import Split
from medxlate.evaluation.cohort import open_cohort
from medxlate.inference.predict import Predictor, predict_batches
from medxlate.method.augment import AUGMENTATIONS
from medxlate.method.label_transform import LabelTransform
from medxlate.method.placing import place
from medxlate.method.registry import METHODS
from medxlate.method.translator import TranslatorNetworks
from medxlate.training import loop, validation
from medxlate.training.loader import TrainLoader
from medxlate.training.train import TrainResult, resume, train
from medxlate.training.validation import Validation

SOURCES = ("mri", "pet")
CPU = Compute(torch.device("cpu"), "fp32")
PATIENTS = {
    "mri": range(0, 8),
    "pet": range(8, 16),
    "ct": range(14, 26),
    "truth": range(0, 16),
}
ORDER = np.random.default_rng(7).permutation(26)
EPOCHS, STEPS, BATCH = 2, 2, 2

# From how many batches of images the predictor learns in a step, with two sources.
LEARNS_FROM = {
    "target-only": 1,
    "transfer": 1,
    **dict.fromkeys(AUGMENTATIONS, 2),
    **dict.fromkeys(("joint", "cyclegan", "raw-mix", "multitask", "dann"), 3),
    **dict.fromkeys(("histogram", "duplicate-real", "oracle"), 3),
    **dict.fromkeys(("joint+autoaugment", "cyclegan+autoaugment", "oracle+random-erasing"), 4),
}
# What is shown in a source's place is not the source's own images.
REPLACED = ("cyclegan", "histogram", "duplicate-real", "oracle")
ORACLE = "truth"  # the target's images of all source patients

SMALLEST = {"generator_width": 4, "generator_blocks": 1, "discriminator_width": 4}
Images = Mapping[str, Mapping[int, list[np.ndarray[Any, Any]]]]


def write_images(root: Path, images: Images) -> None:
    for modality, patients in images.items():
        (root / modality).mkdir(parents=True)
        for patient, slices in patients.items():
            for number, pixels in enumerate(slices):
                image = PIL.Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
                image.save(root / modality / f"p{patient:02d}-{number}.png")


def prepare_images(raw: Path, data: Path, ages: Mapping[int, float]) -> Path:
    """Prepare every modality below ``raw`` with these labels."""
    data.mkdir(parents=True)
    (data / "pseudonym.key").write_text(tiny.KEY)
    labels = data.parent / f"{data.name}.csv"
    labels.write_text("patient,age\n" + "".join(f"p{n:02d},{age}\n" for n, age in ages.items()))
    options = PrepareOptions(
        labels=labels, label="age", patient=r"regex:(p\d\d)", patient_column="patient"
    )
    for folder in sorted(raw.iterdir()):
        prepare(folder, modality=folder.name, data=data, options=options, size=tiny.SIZE)
    return data


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three modalities in ``data``; in ``relabelled`` the same images, the labels exchanged."""
    root = tmp_path_factory.mktemp("methods")
    images = {}
    for which, (modality, numbers) in enumerate(PATIENTS.items()):
        random = np.random.default_rng(which)
        images[modality] = {
            n: [60 * which + noise_of(random, squared=which == 0) for _ in range(2)]
            for n in numbers
        }
    write_images(root / "raw", images)
    prepare_images(root / "raw", root / "data", {n: age(n) for n in range(26)})
    prepare_images(root / "raw", root / "relabelled", {n: age(int(ORDER[n])) for n in range(26)})
    return root


def noise_of(random: np.random.Generator, *, squared: bool) -> np.ndarray[Any, Any]:
    """Return normal noise, or its squares."""
    noise = random.normal(60, 20, (tiny.SIZE, tiny.SIZE))
    return noise**2 / 60 if squared else noise


def age(number: int) -> float:
    return 20.0 + 2.5 * number


@dataclass
class Watched:
    """What one loop began with, was shown and told its learner."""

    method: str
    head: LabelTransform
    first: dict[str, Tensor]
    batches: list[Mapping[str, Batch]] = field(default_factory=list)
    validated: list[Tensor] = field(default_factory=list)
    progress: list[float] = field(default_factory=list)
    learned: int = 0


@contextmanager
def watching() -> Iterator[list[Watched]]:
    """Give a record of every loop that runs."""
    found: list[Watched] = []
    whole_run, whole_batches = loop.Loop.run, TrainLoader.take
    whole_validate, whole_predict = Validation.metrics, validation.predict_batches

    def run(self: Any) -> Any:
        networks = self._learner.networks
        first = {name: value.clone() for name, value in networks.state_dict().items()}
        watched = Watched(self._config.method, self._validation._head, first)
        found.append(watched)
        whole_backward = self._learner.backward

        def backward(batches: Any, *, progress: float) -> Any:
            watched.progress.append(progress)
            return whole_backward(batches, progress=progress)

        def count(module: nn.Module, given: tuple[Tensor]) -> None:
            watched.learned += len(given[0]) if module.training else 0

        self._learner.backward = backward
        if "predictor" in networks:
            stem = next(m for m in networks["predictor"].modules() if isinstance(m, nn.Conv2d))
            stem.register_forward_pre_hook(count)
        return whole_run(self)

    def batches(self: Any, step: int) -> Any:
        found[-1].batches.append(whole_batches(self, step))
        return found[-1].batches[-1]

    def predict(network: Any, images: Iterable[Tensor], **options: Any) -> Any:
        found[-1].validated += (kept := list(images))
        return whole_predict(network, kept, **options)

    def validate(self: Any) -> dict[str, float]:
        metrics = whole_validate(self)
        return {**metrics, "val_error": float(len(found[-1].batches))} if metrics else {}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.Loop, "run", run)
        patch.setattr(TrainLoader, "take", batches)
        patch.setattr(Validation, "metrics", validate)
        patch.setattr(validation, "predict_batches", predict)
        yield found


@dataclass
class Trained:
    result: TrainResult
    loops: list[Watched]

    @property
    def run(self) -> Path:
        return self.result.run

    @property
    def main(self) -> Watched:
        return self.loops[-1]


def train_method(root: Path, method: str, dataset: str = "data") -> Trained:
    """Train two epochs of two steps, from MRI and PET to CT."""
    optimizer = {"epochs": EPOCHS, "steps_per_epoch": STEPS, "batch_size": BATCH, "buffer_size": 2}
    data = {"sources": SOURCES, "oracle": ORACLE}
    config = tiny.debug_config(
        root / dataset, method=method, data=data, optimizer=optimizer, model=SMALLEST
    )
    with watching() as loops:
        result = train(config, runs=root / f"runs-{dataset}-{method}")
    return Trained(result, loops)


@pytest.fixture(scope="module")
def runs(root: Path) -> dict[str, Trained]:
    return {method: train_method(root, method) for method in LEARNS_FROM}


def checkpoint(run: Path, pointer: str) -> Path:
    return run / "checkpoints" / (run / "checkpoints" / pointer).read_text().strip()


def weights(run: Path, pointer: str) -> dict[str, Tensor]:
    return load_file(checkpoint(run, pointer) / "networks.safetensors")


def same(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], prefix: str = "") -> bool:
    keys = [key for key in theirs if key.startswith(prefix)]
    assert keys
    return all(torch.equal(ours[key], theirs[key]) for key in keys)


def split_of(run: Path) -> Split:
    return Split.from_json(json.loads((run / "split.json").read_text()))


def slices_of(data: Path, run: Path, modality: str, part: Any) -> Slices:
    """Return a part's slices, by the pseudonyms in split.json."""
    dataset = Dataset(data)
    opened = dataset.modality(modality)
    rows = [
        row
        for row, patient in enumerate(opened.column("patient"))
        if patient in split_of(run).parts[part]
    ]
    return Slices(opened, rows, task=dataset.info.task, image_size=tiny.SIZE)


def prints(images: Iterable[Tensor]) -> set[bytes]:
    return {image.numpy().tobytes() for batch in images for image in batch}


def images_of(slices: Slices) -> set[bytes]:
    return prints(batch.images for batch in slices.batches(4))


def base(method: str) -> str:
    return method.partition("+")[0]


# All methods


def test_all_methods_are_here():
    assert set(METHODS) == {name for name in LEARNS_FROM if "+" not in name} | {"constant"}


def test_every_training_starts_from_the_same_predictor(runs: dict[str, Trained]):
    wanted = runs["target-only"].main.first
    for method, trained in runs.items():
        first = trained.loops[0] if method == "transfer" else trained.main
        assert same(first.first, wanted, "predictor."), method


def test_every_predictor_is_updated_equally_often(runs: dict[str, Trained]):
    for method, trained in runs.items():
        assert trained.result.steps == EPOCHS * STEPS, method
        adam = load_file(checkpoint(trained.run, "last") / "training.safetensors")
        assert float(adam["optimizer.predictor.0.step"]) == EPOCHS * STEPS, method
        assert trained.main.progress == [0, 0.25, 0.5, 0.75], method


def test_the_images_that_a_predictor_learned_from_are_counted(runs: dict[str, Trained]):
    for method, trained in runs.items():
        wanted = EPOCHS * STEPS * BATCH * LEARNS_FROM[method]
        assert trained.result.images_seen == trained.main.learned == wanted, method


def test_every_method_is_shown_the_same_slices_in_the_same_order(runs: dict[str, Trained]):
    wanted = runs["joint"].main.batches
    for method, trained in runs.items():
        for ours, theirs in zip(trained.main.batches, wanted, strict=True):
            for name, batch in ours.items():
                replaced = base(method) in REPLACED and name in SOURCES
                if not replaced or base(method) != "duplicate-real":
                    assert torch.equal(batch.labels, theirs[name].labels), method
                assert torch.equal(batch.images, theirs[name].images) == (not replaced), method


def test_every_predictor_is_chosen_by_the_targets_validation_slices(
    root: Path, runs: dict[str, Trained]
):
    for method, trained in runs.items():
        wanted = images_of(slices_of(root / "data", trained.run, "ct", "val"))
        assert prints(trained.main.validated) == wanted, method
        best = weights(trained.run, "best")
        assert same(
            {f"predictor.{k}": v for k, v in load_file(predictor_file(trained.run)).items()},
            best,
            "predictor.",
        )
        assert trained.result.best_step == STEPS
        assert not same(weights(trained.run, "last"), best, "predictor.backbone.fc")


def predictor_file(run: Path) -> Path:
    return run / "model" / "predictor.safetensors"


def test_scale_is_that_of_the_labels_a_predictor_begins_with(root: Path, runs: dict[str, Trained]):
    for method, trained in runs.items():
        if method == "transfer":
            names: tuple[str, ...] = SOURCES
        elif LEARNS_FROM[method] > 2 and method != "duplicate-real":
            names = (*SOURCES, "ct")
        else:
            names = ("ct",)
        parts = [slices_of(root / "data", trained.run, name, "train") for name in names]
        labels = np.concatenate([part.labels.numpy().astype(np.float64) for part in parts])
        head = read_model(trained.run / "model").predictor.head
        assert (head.mean, head.std) == pytest.approx((labels.mean(), labels.std())), method
        assert trained.main.head == head


def test_several_sources_each_have_their_part(runs: dict[str, Trained]):
    for method, trained in runs.items():
        translates = base(method) in ("joint", "cyclegan")
        assert set(read_model(trained.run / "model").translators) == set(
            SOURCES if translates else ()
        ), method
        first = trained.run / "first"
        stages = {path.name for path in first.iterdir()} if first.is_dir() else set()
        wanted = {"cyclegan": set(SOURCES), "transfer": {"sources"}}.get(base(method), set())
        assert stages == wanted
        shown = set(trained.main.batches[0])
        assert shown == ({*SOURCES, "ct"} if LEARNS_FROM[method] > 2 else {"ct"}), method


# transfer


def test_transfer_starts_from_the_best_source_trained_predictor(
    root: Path, runs: dict[str, Trained]
):
    stage, main = runs["transfer"].loops
    folder = runs["transfer"].run / "first" / "sources"
    assert (stage.method, main.method) == ("source-only", "transfer")
    best, last = weights(folder, "best"), weights(folder, "last")
    assert same(main.first, best)
    assert set(main.first) == set(best)
    assert not same(main.first, last, "predictor.backbone.fc")
    assert not same(main.first, stage.first, "predictor.backbone.fc")


def test_transfers_first_stage_knows_the_sources_alone(root: Path, runs: dict[str, Trained]):
    stage, run = runs["transfer"].loops[0], runs["transfer"].run
    assert {name for batches in stage.batches for name in batches} == set(SOURCES)
    shown = prints(batch.images for batches in stage.batches for batch in batches.values())
    parts = {
        part: [slices_of(root / "data", run, name, part) for name in SOURCES]
        for part in ("train", "val")
    }
    assert shown <= set().union(*map(images_of, parts["train"]))
    assert prints(stage.validated) == set().union(*map(images_of, parts["val"]))
    every = [slices_of(root / "data", run, "ct", part) for part in ("train", "val", "test")]
    assert not set().union(*map(images_of, every)) & (shown | prints(stage.validated))


# multitask


def test_the_source_heads_of_multitask_are_not_handed_on(root: Path, runs: dict[str, Trained]):
    run = runs["multitask"].run
    trained = weights(run, "best")
    assert {"source_heads.mri.weight", "source_heads.pet.weight"} <= set(trained)
    stored = load_file(predictor_file(run))
    assert {name: value.shape for name, value in stored.items()} == {
        name: value.shape for name, value in load_file(predictor_file(runs["raw-mix"].run)).items()
    }
    folder = list((run / "model").iterdir())
    assert {file.name for file in folder} == {"README.md", "model.json", "predictor.safetensors"}
    sources = [trained[f"source_heads.{name}.weight"] for name in SOURCES]
    assert not any(torch.equal(value, source) for value in stored.values() for source in sources)

    predictor, head = Predictor(run), read_model(run / "model").predictor.head
    features: list[Tensor] = []
    layer = predictor.network.backbone.get_submodule("fc")
    layer.register_forward_pre_hook(lambda _, given: features.append(given[0]))
    images = slices_of(root / "data", run, "ct", "test").batch(range(4)).images
    values = predict_batches(predictor.network, [images], head=head, compute=predictor.compute)

    def answers(prefix: str) -> Tensor:
        outputs = features[0] @ trained[f"{prefix}.weight"].T + trained[f"{prefix}.bias"]
        return head.mean + head.std * outputs[:, 0]

    torch.testing.assert_close(torch.from_numpy(values), answers("predictor.backbone.fc"))
    assert (torch.from_numpy(values) - answers("source_heads.mri")).abs().max() > 0.1


# cyclegan


def test_the_labels_change_joints_generators_and_not_cyclegans(
    root: Path, runs: dict[str, Trained]
):
    other = {name: train_method(root, name, "relabelled") for name in ("cyclegan", "joint")}
    for name, trained in other.items():
        assert split_of(trained.run) == split_of(runs[name].run)
        for ours, theirs in zip(trained.main.batches, runs[name].main.batches, strict=True):
            assert not any(torch.equal(ours[m].labels, theirs[m].labels) for m in ours)
    for source in SOURCES:
        ours, theirs = (
            weights(trained.run / "first" / source, "last")
            for trained in (other["cyclegan"], runs["cyclegan"])
        )
        assert {key.split(".")[1] for key in ours} == {"g", "f", "d_s", "d_t"}
        assert same(ours, theirs)
        file = Path("model", f"translator-{source}.safetensors")
        ours, theirs = (load_file(t.run / file) for t in (other["cyclegan"], runs["cyclegan"]))
        assert same(ours, theirs)
        ours, theirs = (load_file(t.run / file) for t in (other["joint"], runs["joint"]))
        assert not same(ours, theirs)
    ours, theirs = (load_file(predictor_file(t.run)) for t in (other["cyclegan"], runs["cyclegan"]))
    assert not same(ours, theirs)  # its predictor does learn from them


def test_cyclegans_predictor_learns_from_the_exported_translations(runs: dict[str, Trained]):
    trained = runs["cyclegan"]
    assert [each.method for each in trained.loops] == ["translator", "translator", "cyclegan"]
    raw = runs["raw-mix"].main.batches
    model = trained.run / "model"
    for source in SOURCES:
        stored = load_file(model / f"translator-{source}.safetensors")
        last = weights(trained.run / "first" / source, "last")
        assert same(last, {f"{source}.g.{name}": value for name, value in stored.items()})
        _, generator = load_generator(model, read_model(model), source)
        for ours, theirs in zip(trained.main.batches, raw, strict=True):
            with torch.no_grad():
                wanted = place(generator, CPU)(theirs[source].images)
            assert (ours[source].images - wanted).abs().max() < 1.01 / 65535  # half a step
            assert (wanted - theirs[source].images).abs().max() > 0.1
    assert not any(isinstance(stage, TranslatorNetworks) for stage in trained.main.first)


# histogram


def shown_of(trained: Trained, source: str) -> Tensor:
    return torch.cat([batches[source].images for batches in trained.main.batches])


def test_histogram_matches_each_scan_to_the_targets_training_images(
    root: Path, runs: dict[str, Trained]
):
    """Every image is a scan of its own here; scikit-image's own matching is the truth."""
    target = slices_of(root / "data", runs["histogram"].run, "ct", "train")
    reference = target.batch(range(len(target))).images.numpy()
    for source in SOURCES:
        ours, raw = shown_of(runs["histogram"], source), shown_of(runs["raw-mix"], source)
        assert len(ours) == len(raw)
        for matched, image in zip(ours.numpy(), raw.numpy(), strict=True):
            wanted = match_histograms(image.ravel(), reference.ravel()).reshape(image.shape)
            # Of equal values scikit-image takes the upper end, half a step from their middle.
            assert np.abs(matched - wanted).mean() < 0.01
            assert source != "mri" or np.abs(image - wanted).mean() > 0.05


# duplicate-real


def test_duplicate_real_shows_the_targets_training_images_again(
    root: Path, runs: dict[str, Trained]
):
    trained = runs["duplicate-real"]
    real = images_of(slices_of(root / "data", trained.run, "ct", "train"))
    for source in SOURCES:
        assert len(shown_of(trained, source)) == len(shown_of(runs["joint"], source))
        assert prints([shown_of(trained, source)]) <= real
    orders = [shown_of(trained, name) for name in (*SOURCES, "ct")]
    assert not any(torch.equal(orders[i], orders[j]) for i, j in ((0, 1), (0, 2), (1, 2)))
    counted = read_model(trained.run / "model").trained_on.train
    target = slices_of(root / "data", trained.run, "ct", "train")
    assert counted == {"ct": (len(set(target.patients)), len(target))}


# oracle


def test_oracle_shows_the_true_images_of_the_training_patients(
    root: Path, runs: dict[str, Trained]
):
    """The same patients, slices and order as the sources', with the pixels of the truth."""
    trained, split = runs["oracle"], split_of(runs["oracle"].run)
    truth = Dataset(root / "data").modality(ORACLE)
    for source in SOURCES:
        slices = slices_of(root / "data", trained.run, source, "train")
        raw = Dataset(root / "data").modality(source)
        paired = {}
        for row, (patient, file) in enumerate(
            zip(truth.column("patient"), truth.column("file"), strict=True)
        ):
            paired[patient, Path(file).name[-5:]] = truth.pixels(row)
        wanted = {}
        for i, row in enumerate(slices.rows):
            place = raw.column("patient")[row], Path(raw.column("file")[row]).name[-5:]
            wanted[slices.batch([i]).images.numpy().tobytes()] = paired[place] / 127.5 - 1
        shown, asked = shown_of(trained, source), shown_of(runs["raw-mix"], source)
        for image, original in zip(shown.numpy(), asked.numpy(), strict=True):
            assert np.abs(image[0] - wanted[original.tobytes()]).max() < 1e-6
    assert split == split_of(runs["joint"].run)
    everyone_else = prints(
        batch.images
        for name, other in runs.items()
        if base(name) != "oracle"
        for each in other.loops
        for batches in each.batches
        for batch in batches.values()
    )
    everything = Slices(
        truth,
        range(len(truth.slices)),
        task=Dataset(root / "data").info.task,
        image_size=tiny.SIZE,
    )
    assert not everyone_else & images_of(everything)
    assert not prints(trained.main.validated) & images_of(everything)
    assert set(open_cohort(RunFolder(trained.run)).test) == {*SOURCES, "ct"}


def test_oracle_needs_pairs_of_every_training_patient(root: Path):
    def refused(**sections: Any) -> str:
        config = tiny.debug_config(root / "data", method="oracle", model=SMALLEST, **sections)
        with pytest.raises(MedxlateError) as found:
            train(config, runs=root / "refused")
        assert not (root / "refused").exists()
        return str(found.value)

    assert "needs pairs" in refused(data={"sources": SOURCES})
    assert "split.policy=patient" in refused(
        data={"sources": SOURCES, "oracle": ORACLE}, split={"policy": "image"}
    )
    text = refused(data={"sources": ["mri"], "oracle": "pet"})
    assert re.search(r"(\d+) of \1 mri training patients, such as p\w+, have no image in pet", text)
    assert "'nothing' was not prepared" in refused(data={"sources": ["mri"], "oracle": "nothing"})
    for oracle in ("mri", "ct"):
        with pytest.raises(ConfigError, match=f"oracle '{oracle}' is a source or the target"):
            tiny.debug_config(root / "data", data={"sources": ["mri"], "oracle": oracle})


def test_a_resumed_run_shows_the_same_stand_ins(root: Path, runs: dict[str, Trained]):
    for method in ("histogram", "duplicate-real", "oracle"):
        config = tiny.debug_config(
            root / "data",
            method=method,
            data={"sources": SOURCES, "oracle": ORACLE},
            optimizer={"epochs": EPOCHS, "steps_per_epoch": STEPS, "batch_size": BATCH},
            model=SMALLEST,
        )
        with watching() as loops, pytest.raises(StoppedError):
            train(config, runs=root / "stopped", name=method, stop=lambda: "them")
        with watching() as rest:
            resume(root / "stopped" / method)
        shown = [*loops[-1].batches, *rest[-1].batches]
        # A step is asked for once more where a loop begins, to be rehearsed.
        known = [batches["mri"].images for batches in runs[method].main.batches]
        assert prints(batches["mri"].images for batches in shown) == prints(known)
        assert torch.equal(rest[-1].batches[-1]["mri"].images, known[-1])


def test_steps_do_not_depend_on_what_is_shown(root: Path):
    """An epoch shows the largest modality once, also where more or fewer images replace it."""
    data = {"sources": ["mri"], "oracle": ORACLE}
    steps = {
        method: train(
            tiny.debug_config(
                root / "data", method=method, data=data, optimizer={"epochs": 1}, model=SMALLEST
            ),
            runs=root / "steps",
        ).steps
        for method in ("target-only", "raw-mix", "duplicate-real", "oracle", "histogram")
    }
    assert len(set(steps.values())) == 1


# Shares of the patients


def shown_patients(data: Path, trained: Trained, loop_: Watched, modality: str) -> set[str]:
    """Return the pseudonyms of whom a loop was shown images of a modality."""
    slices = slices_of(data, trained.run, modality, "train")
    owners = {
        slices.batch([i]).images[0].numpy().tobytes(): patient
        for i, patient in enumerate(slices.patients)
    }
    shown = prints(batches[modality].images for batches in loop_.batches)
    assert shown <= set(owners)
    return {owners[image] for image in shown}


def train_share(root: Path, method: str, **shares: float) -> Trained:
    """Train one epoch of 24 images of each modality, more than any has: each is shown."""
    config = tiny.debug_config(
        root / "data",
        method=method,
        data={"sources": SOURCES, **shares},
        optimizer={"epochs": 1, "steps_per_epoch": 3, "batch_size": 8},
        model=SMALLEST,
    )
    with watching() as loops:
        return Trained(train(config, runs=root / "shares"), loops)


@pytest.mark.parametrize("which", ["target_fraction", "source_fraction"])
def test_a_share_is_of_the_patients_and_nested(root: Path, which: str):
    varied, fixed = ("ct", "mri") if which == "target_fraction" else ("mri", "ct")
    found, others = [], []
    for share in (0.25, 0.5, 1.0):
        trained = train_share(root, "raw-mix", **{which: share})
        assert trained.result.steps == 3
        found.append(shown_patients(root / "data", trained, trained.main, varied))
        others.append(shown_patients(root / "data", trained, trained.main, fixed))
    everyone = set(slices_of(root / "data", trained.run, varied, "train").patients)
    assert found[0] < found[1] < found[2] == everyone
    assert [len(each) for each in found] == [
        round(share * len(everyone)) for share in (0.25, 0.5, 1.0)
    ]
    assert others[0] == others[1] == others[2]


def test_transfers_first_stage_does_not_depend_on_the_targets_share(root: Path):
    runs = [train_share(root, "transfer", target_fraction=share) for share in (0.25, 1.0)]
    stages = [weights(trained.run / "first" / "sources", "last") for trained in runs]
    assert same(*stages)
    counts = [len(shown_patients(root / "data", trained, trained.main, "ct")) for trained in runs]
    assert counts[0] < counts[1]
    fewer = train_share(root, "transfer", source_fraction=0.5)
    assert not same(weights(fewer.run / "first" / "sources", "last"), stages[0])


def test_cyclegans_translators_see_the_targets_share_alone(root: Path):
    trained = train_share(root, "cyclegan", target_fraction=0.25)
    shown = [shown_patients(root / "data", trained, each, "ct") for each in trained.loops]
    assert len(shown) == 3
    assert shown[0] == shown[1] == shown[2]
    assert len(shown[0]) == round(
        0.25 * len(set(slices_of(root / "data", trained.run, "ct", "train").patients))
    )


# Policies


def test_the_policies_differ_where_patients_look_like_themselves(tmp_path: Path):
    """Labels by chance, and every patient of a pattern of his own: nobody unseen can be guessed."""
    random = np.random.default_rng(3)
    patterns = {n: np.tile(random.uniform(40, 215, (4, 4)), (8, 8)) for n in range(20)}
    images = {
        n: [pattern + random.normal(0, 6, pattern.shape) for _ in range(5)]
        for n, pattern in patterns.items()
    }
    write_images(tmp_path / "raw", {"ct": images})
    ages = dict(enumerate(random.permutation(np.linspace(20, 80, 20))))
    data = prepare_images(tmp_path / "raw", tmp_path / "data", ages)
    ratios = {}
    for policy in ("image", "patient"):
        config = tiny.debug_config(
            data,
            method="target-only",
            data={"sources": []},
            split={"policy": policy, "train": 0.5, "val": 0.1, "test": 0.4},
            optimizer={"epochs": 40, "batch_size": 10, "predictor_lr": 0.01},
            runtime={"log_every": 100},
        )
        run = train(config, runs=tmp_path / "runs").run
        dataset = Dataset(data)
        modality = dataset.modality("ct")
        split = split_of(run)
        train_part, test_part = (
            Slices(
                modality,
                split.rows("ct", modality.slices, part),
                task=dataset.info.task,
                image_size=tiny.SIZE,
            )
            for part in ("train", "test")
        )
        on_both_sides = set(train_part.patients) & set(test_part.patients)
        assert bool(on_both_sides) == (policy == "image")
        predictor = Predictor(run)
        values = predict_batches(
            predictor.network,
            (batch.images for batch in test_part.batches(16)),
            head=predictor.head,
            compute=predictor.compute,
        )
        truth = test_part.labels.numpy()
        constant = np.mean((train_part.labels.numpy().mean() - truth) ** 2)
        ratios[policy] = np.mean((values - truth) ** 2) / constant
    assert ratios["image"] < 0.3
    assert ratios["patient"] > 0.8


# Resuming what has a first stage


class Stop:
    """A listener that interrupts after so many steps of all stages together."""

    def __init__(self, step: int) -> None:
        self._left = step

    def __call__(self, event: Event) -> None:
        if isinstance(event, Progress) and event.task == "training":
            self._left -= 1
            if self._left == 0:
                raise KeyboardInterrupt


def long_config(root: Path, method: str) -> Any:
    """Two epochs of two steps of each stage, losses recorded at each."""
    return tiny.debug_config(
        root / "data",
        method=method,
        optimizer={"epochs": 2, "steps_per_epoch": 2, "batch_size": 3, "buffer_size": 4},
        model=SMALLEST,
        runtime={"keep_checkpoints": 2},
    )


@pytest.fixture(scope="module", params=["transfer", "cyclegan"])
def whole(request: pytest.FixtureRequest, root: Path) -> tuple[str, Path]:
    """A method and its uninterrupted run."""
    name = request.param
    return name, train(long_config(root, name), runs=root / "whole", name=name).run


def comparable(run: Path) -> dict[str, Any]:
    """Return everything that a run has made, but for speed."""
    found: dict[str, Any] = {}
    for path in sorted(run.rglob("*")):
        name = path.relative_to(run).as_posix()
        if path.name == "metrics.jsonl":
            events = [json.loads(line) for line in path.read_text().splitlines()]
            for event in events:
                for timing in ("images_per_second", "data_wait", "seconds"):
                    event.pop(timing, None)
            found[name] = events
        elif path.is_file() and path.name != "progress.png":  # which shows times
            found[name] = path.read_bytes()
    return found


# Steps 1 to 4 are the first stage's, 5 to 8 the predictor's; an epoch has two.
@pytest.mark.parametrize("stops", [[1], [7], [3, 3]], ids=str)
def test_a_resumed_training_with_a_first_stage_is_the_uninterrupted_one(
    root: Path, tmp_path: Path, whole: tuple[str, Path], stops: list[int]
):
    method, theirs = whole
    with pytest.raises(KeyboardInterrupt):
        train(long_config(root, method), runs=tmp_path, name=method, listener=Stop(stops[0]))
    run = tmp_path / method
    assert not (run / "model").exists()
    for stop in stops[1:]:  # counted anew from the last checkpoint
        with pytest.raises(KeyboardInterrupt):
            resume(run, listener=Stop(stop))
    torch.manual_seed(999)
    with watching_runs() as ran:
        result = resume(run)
    first = {"transfer": "source-only", "cyclegan": "translator"}[method]
    in_main = stops[0] > 4 or len(stops) > 1
    assert ran == ([method] if in_main else [first, method])  # a finished stage is left alone
    assert (result.steps, result.epochs) == (4, 2)
    ours, wanted = comparable(run), comparable(theirs)
    assert set(ours) == set(wanted)
    assert [name for name in wanted if ours[name] != wanted[name]] == []


@pytest.mark.parametrize("damage", ["state.json", "networks.safetensors", "pointers"])
def test_what_is_damaged_in_a_first_stage_is_trained_again(
    root: Path, tmp_path: Path, whole: tuple[str, Path], damage: str
):
    """From the checkpoint before; a kill before the pointers were written costs nothing."""
    method, theirs = whole
    with pytest.raises(KeyboardInterrupt):
        train(long_config(root, method), runs=tmp_path, name=method, listener=Stop(7))
    (stage,) = (tmp_path / method / "first").iterdir()
    folder = stage / "checkpoints"
    newest = sorted(folder.glob("step-*"))[-1]
    if damage == "pointers":
        (folder / "last").unlink()
        (folder / "best").unlink(missing_ok=True)
    else:
        content = (newest / damage).read_bytes()
        (newest / damage).write_bytes(content[: len(content) // 2])
    resume(tmp_path / method)
    ours, wanted = comparable(tmp_path / method), comparable(theirs)
    assert [name for name in wanted if ours[name] != wanted[name]] == []


def test_a_stop_in_a_first_stage_says_how_the_run_is_continued(root: Path, tmp_path: Path):
    with pytest.raises(StoppedError) as stopped:
        train(long_config(root, "transfer"), runs=tmp_path, name="job", stop=lambda: "SIGTERM")
    assert "after step 1" in stopped.value.message
    assert stopped.value.hint == (
        f"Continue with `medxlate train --resume --runs {tmp_path} --name job`."
    )


@contextmanager
def watching_runs() -> Iterator[list[str]]:
    ran: list[str] = []
    whole_run = loop.Loop.run

    def run(self: Any) -> Any:
        ran.append(self._config.method)
        return whole_run(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.Loop, "run", run)
        yield ran


def test_finished_stages_of_elsewhere_are_taken_as_they_are(
    root: Path, tmp_path: Path, whole: tuple[str, Path]
):
    method, theirs = whole
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(theirs / "first", elsewhere)
    stages = {path.name: RunFolder(path) for path in elsewhere.iterdir()}
    with watching_runs() as ran:
        result = train(long_config(root, method), runs=tmp_path / "runs", stages=stages)
    assert ran == [method]
    assert not (result.run / "first").exists()
    ours, wanted = comparable(result.run), comparable(theirs)
    assert {name: content for name, content in wanted.items() if "first/" not in name} == ours
