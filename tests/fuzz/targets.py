"""What is done with a damaged file: the functions that the commands call, on it and around it."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from medxlate.artifacts.folder import load_generator, load_predictor
from medxlate.artifacts.info import read_model
from medxlate.artifacts.runs import find_model
from medxlate.base.device import choose_compute
from medxlate.base.errors import ImageError, MedxlateError
from medxlate.base.records import read_json
from medxlate.config import parse, resolve
from medxlate.dataset.division import draw_split
from medxlate.dataset.identifiers import Identifiers
from medxlate.dataset.index import Dataset
from medxlate.dataset.label_table import read_table
from medxlate.dataset.labels import parse_label
from medxlate.dataset.links import find_links
from medxlate.dataset.loading import Slices
from medxlate.dataset.options import PrepareOptions
from medxlate.dataset.plan import stamp
from medxlate.dataset.prepare import prepare
from medxlate.dataset.rows import RowFinder
from medxlate.dataset.splits import read_split
from medxlate.images.find import find_images
from medxlate.images.grouping import find_scans
from medxlate.images.open import open_slices
from medxlate.images.recipes import Recipe
from medxlate.inference.translate import translate
from medxlate.method.label_transform import LabelTransform
from medxlate.method.registry import build_learner
from medxlate.study.external_predictions import score_table
from medxlate.study.study import cell_config, cells, read_study
from medxlate.training.checkpoints import last_position, load_part, pointed, read_checkpoint
from medxlate.training.state import restore

SIDE = 32
RECIPES = (
    Recipe(kind="mr", percentiles=(0.5, 99.5)),
    Recipe(kind="as-is", plane="coronal"),
    Recipe(kind="ct", window=(40, 400), unit="HU"),
)
PET = Recipe(kind="pet", window=(5, 10), unit="SUVbw")
TAGS = ("PatientAge", "PatientID", "PatientSex")


@dataclass(frozen=True)
class Place:
    """Where a damaged file is put.

    Attributes:
        home: The folders with the dataset, model, run and study; whole but for the file.
        inbox: An empty folder for files that stand for themselves.
        name: What the file was called.
        number: Of the input.
    """

    home: Path
    inbox: Path
    name: str
    number: int


Use = Callable[[Place, bytes], object]


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        form: How it is damaged; see ``mutate.FORMS``.
        use: Brings it through the library.
        share: How often it is drawn, beside the others.
    """

    form: str
    use: Use
    share: int = 1


def image(place: Place, content: bytes) -> None:
    """Read it as ``prepare`` does; every eighth goes through ``translate`` or ``prepare``."""
    path = place.inbox / place.name
    path.write_bytes(content)
    if place.number % 8 == 0:
        out = place.inbox.with_name("out")
        translate(
            place.inbox, out=out, model=place.home / "model", device="cpu", batch_size=2, force=True
        )
        return
    if place.number % 8 == 1:
        label = "tag:PatientAge" if path.suffix == ".dcm" else "regex:(.)"
        options = PrepareOptions(label=label, patient="file", task="classification", recipe="mr")
        data = place.inbox.with_name("out")
        prepare(place.inbox, modality="new", data=data, options=options, size=SIDE)
        return
    found = find_scans(find_images(path), tags=TAGS)
    if not found.scans:
        raise ImageError(str({**found.skipped, **found.left_out}))
    recipe = RECIPES[place.number % 3 * (path.suffix == ".dcm" or place.number % 3 < 2)]
    if path.suffix == ".dcm":
        recipe = PET if path.stem == "pet" else recipe.model_copy(update={"plane": "axial"})
    for scan in found.scans:
        for slice_ in open_slices(scan, recipe, SIDE).slices:
            if slice_.stored is not None:
                assert slice_.stored.shape == (SIDE, SIDE)


def table(place: Place, content: bytes) -> None:
    path = place.inbox / place.name
    path.write_bytes(content)
    found = read_table(path)
    found.check_column("age", option="--label")
    found.check_column("file", option="--file")
    names = ["p1.png", "p2.png"]
    row = RowFinder(found, "file", by_patient=False, relevant=["age"], images=names).find(*names)
    parse_label(row["age"], kind="regression", decimal_comma=found.decimal_comma)


def opened(place: Place) -> None:
    """Open the dataset as ``train`` does: tables, links, split, a batch of each modality."""
    dataset = Dataset(place.home / "data")
    tables = {name: dataset.modality(name) for name in ("mri", "ct")}
    for modality in tables.values():
        modality.fingerprint()
    slices = {name: modality.slices for name, modality in tables.items()}
    config = parse({}).split
    draw_split(slices, target="ct", config=config, links=find_links(tables, config.policy))
    for modality in tables.values():
        rows = range(min(4, len(modality.slices)))
        chosen = Slices(modality, rows, task=dataset.info.task, image_size=SIDE)
        chosen.batch(rows)


def in_dataset(relative: str) -> Use:
    """Return a use that puts the file into the dataset and opens that."""

    def use(place: Place, content: bytes) -> None:
        with put(place.home / "data" / relative, content):
            opened(place)

    return use


class put:  # noqa: N801  used like a function
    """Have a file hold other bytes while the block runs."""

    def __init__(self, path: Path, content: bytes) -> None:
        self.path, self.content = path, content

    def __enter__(self) -> None:
        self.before = self.path.read_bytes()
        self.path.write_bytes(self.content)

    def __exit__(self, *_: object) -> None:
        self.path.write_bytes(self.before)


def in_modality(place: Place, content: bytes) -> None:
    """Put the file into the modality's folder, and half the time the same into dataset.json."""
    name = "ct"
    summary = place.home / "data" / "dataset.json"
    text = summary.read_bytes()
    if place.number % 2:
        values = json.loads(text)
        try:
            values["modalities"][name] = json.loads(content)
            text = json.dumps(values).encode()
        except (ValueError, RecursionError):
            pass
    with put(summary, text), put(place.home / "data" / name / "modality.json", content):
        opened(place)


def in_prepare(place: Place, content: bytes) -> None:
    """Prepare again what stands there: ``prepare.json`` says whether there is anything to do."""
    raw, data = place.home / "raw", place.home / "data"
    options = PrepareOptions(
        labels=raw / "labels.csv", label="age", patient="regex:(Zebrowski\\d\\d)",
        patient_column="patient",
    )  # fmt: skip
    here = stamp(find_images(raw / "ct"), options, size=SIDE).encode()
    path = data / "ct" / "prepare.json"
    content = content.replace(json.loads(path.read_bytes())["made_from"].encode(), here)
    with put(path, content):
        prepare(raw / "ct", modality="ct", data=data, options=options, size=SIDE)


def in_identifiers(place: Place, content: bytes) -> None:
    folder = place.home / "data" / "ct"
    with put(folder / "identifiers.json", content):
        Identifiers.load(folder)


def in_split(place: Place, content: bytes) -> None:
    """Read the split; half the time with the hash that fits it."""
    if place.number % 2:
        content = with_split_hash(content)
    dataset = Dataset(place.home / "data")
    tables = {name: dataset.modality(name) for name in ("mri", "ct")}
    with put(place.home / "run" / "split.json", content):
        split = read_split(place.home / "run" / "split.json", tables)
        for name, modality in tables.items():
            split.rows(name, modality.slices, "train")


def with_split_hash(content: bytes) -> bytes:
    try:
        values = json.loads(content)
        policy = values["policy"]
        parts = values[{"patient": "patients", "image": "images"}[policy]]
        facts: dict[str, Any] = {part: parts[part] for part in ("train", "val", "test")}
        text = json.dumps(facts | ({"policy": policy} if policy != "patient" else {}),
                          separators=(",", ":"))  # fmt: skip
        values["hash"] = hashlib.sha256(text.encode()).hexdigest()
        return json.dumps(values).encode()
    except (KeyError, TypeError, ValueError, RecursionError):
        return content


def in_model(place: Place, content: bytes) -> None:
    """Load the model; every fourth translates an image of 32 x 32 pixels."""
    with put(place.home / "model" / "model.json", content):
        loaded(place)
        if place.number % 4 == 0:
            raw = place.home / "raw" / "mri" / "Zebrowski00-0.png"
            translate(
                raw,
                out=place.inbox.with_name("out"),
                model=place.home / "model",
                device="cpu",
                force=True,
            )


def in_weights(place: Place, content: bytes) -> None:
    """Put weights into the model folder, with the hash that fits them in model.json."""
    described = place.home / "model" / "model.json"
    values = json.loads(described.read_bytes())
    for part in (values["predictor"], *values["translators"].values()):
        if part["weights"]["file"] == place.name:
            part["weights"]["sha256"] = hashlib.sha256(content).hexdigest()
    text = json.dumps(values).encode()
    with put(described, text), put(place.home / "model" / place.name, content):
        loaded(place)


def loaded(place: Place) -> None:
    """Load the model as ``translate`` and ``predict`` do, and use it once."""
    folder = find_model(place.home / "model")
    info = read_model(folder)
    image = torch.zeros(1, 1, SIDE, SIDE)
    with torch.inference_mode():
        load_generator(folder, info, None)[1](image)
        info.predictor.head.predictions(load_predictor(folder, info)(image))


def checkpoint_of(place: Place) -> Path:
    found = pointed(place.home / "run" / "checkpoints", "last")
    assert found is not None
    return found


def signed(values: dict[str, Any]) -> bytes:
    """Return the content of a state.json whose own hash fits, so that what is below it is read."""
    values.pop("own_sha256", None)
    own = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
    return json.dumps({**values, "own_sha256": own}).encode()


def in_state(place: Place, content: bytes) -> None:
    with suppress(ValueError, RecursionError):
        values = json.loads(content)
        content = signed(values) if isinstance(values, dict) else content
    with put(checkpoint_of(place) / "state.json", content):
        resumed(place)


def in_tensors(place: Place, content: bytes) -> None:
    """Put tensors into the checkpoint, with the hash that fits them."""
    state = checkpoint_of(place) / "state.json"
    values = json.loads(state.read_bytes())
    values["sha256"][place.name] = hashlib.sha256(content).hexdigest()
    with put(state, signed(values)), put(checkpoint_of(place) / place.name, content):
        resumed(place)


@cache
def learner(home: Path) -> Any:
    """Return the learner into which checkpoints are loaded, built once."""
    config = parse(read_json(home / "run" / "config.json", error=MedxlateError))
    task = Dataset(home / "data").info.task
    return build_learner(config, LabelTransform(task=task), SIDE, choose_compute("cpu", "fp32"))


def resumed(place: Place) -> None:
    """Read a checkpoint as ``train --resume`` and the export do."""
    folder = place.home / "run" / "checkpoints"
    last_position(folder)
    load_part(checkpoint_of(place), "predictor.")
    restore(read_checkpoint(checkpoint_of(place)), learner(place.home), torch.device("cpu"))


def in_study(place: Place, content: bytes) -> None:
    with put(place.home / "study" / "study.json", content):
        study = read_study(place.home / "study")
        for cell in cells(study)[:100]:
            cell_config(study, cell)
            assert "/" not in cell.name


def predictions(place: Place, content: bytes) -> None:
    path = place.inbox / place.name
    path.write_bytes(content)
    study = read_study(place.home / "study")
    dataset = Dataset(place.home / "data")
    target = dataset.modality("ct")
    split = read_split(place.home / "run" / "split.json", {"ct": target})
    score_table(path, study=study, dataset=dataset, target=target, splits=[split, split])


def config(place: Place, content: bytes) -> None:
    path = place.inbox / place.name
    path.write_bytes(content)
    resolve(file=path)


KINDS: Mapping[str, Kind] = {
    "dicom": Kind("dicom", image, 4),
    "nifti": Kind("gzip", image, 2),
    "nrrd": Kind("text header", image, 2),
    "meta": Kind("text header", image, 2),
    "png": Kind("png", image, 2),
    "tiff": Kind("bytes", image, 2),
    "weights": Kind("safetensors", in_weights),
    "tensors": Kind("safetensors", in_tensors),
    "parquet": Kind("bytes", in_dataset("ct/slices.parquet"), 2),
    "shard": Kind("bytes", in_dataset("ct/shards/00000.npy")),
    "dataset": Kind("json", in_dataset("dataset.json")),
    "links": Kind("json", in_dataset("ct/links.json")),
    "modality": Kind("json", in_modality),
    "prepare": Kind("json", in_prepare),
    "identifiers": Kind("json", in_identifiers),
    "split": Kind("json", in_split),
    "model": Kind("json", in_model),
    "state": Kind("json", in_state),
    "study": Kind("json", in_study),
    "config": Kind("json", config),
    "toml": Kind("toml", config),
    "table": Kind("table", table, 2),
    "xlsx": Kind("zip", table),
    "predictions": Kind("table", predictions),
}


def clean(place: Place) -> None:
    """Remove what an input left beside the whole folders."""
    for folder in (place.inbox, place.inbox.with_name("out")):
        shutil.rmtree(folder, ignore_errors=True)
    place.inbox.mkdir()
