"""The sound files from which damaged ones are made: phantoms and a tiny dataset, model and run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import gdcm
import numpy as np
import pandas as pd
import PIL.Image
import pydicom
import tifffile
import torch
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

import tiny
from medxlate.base.device import choose_compute
from medxlate.base.files import write_json
from medxlate.config import PRESETS
from medxlate.dataset.division import draw_split
from medxlate.dataset.index import Dataset
from medxlate.images.orientation import Geometry
from medxlate.images.volumes import write_volume
from medxlate.method.label_transform import LabelTransform
from medxlate.method.registry import build_learner
from medxlate.phantoms.anatomy import Array, draw_anatomy, render
from medxlate.phantoms.files import write_phantoms
from medxlate.study.study import Study
from medxlate.training.checkpoints import write_checkpoint
from medxlate.training.state import TrainingProgress, take_state

SIDE = 32
STEP = "step-000003"


def write_corpus(root: Path) -> None:
    """Write ``seeds/<kind>/`` and, in ``home``, the folders whose files are damaged in turn."""
    seeds, home = root / "seeds", root / "home"
    _images(seeds, root / "phantoms")
    data = tiny.write_dataset(home)
    model = tiny.write_tiny_model(home)
    config = tiny.debug_config(data)
    (home / "run").mkdir()
    write_json(home / "run" / "config.json", config.model_dump(mode="json"))
    tables = {name: Dataset(data).modality(name) for name in ("mri", "ct")}
    prints = {name: modality.fingerprint() for name, modality in tables.items()}
    slices = {name: modality.slices for name, modality in tables.items()}
    split = draw_split(slices, target="ct", config=config.split)
    write_json(home / "run" / "split.json", {**split.to_json(), "slices": prints})
    learner = build_learner(
        config, LabelTransform(task=tiny.AGE), tiny.SIZE, choose_compute("cpu", "fp32")
    )
    torch.manual_seed(0)
    position = TrainingProgress(step=3, best_step=3)
    taken = take_state(learner, position, device=torch.device("cpu"), window={}, monitor={})
    write_checkpoint(home / "run" / "checkpoints", taken, keep=1)
    study = Study(
        medxlate="0",
        methods=("target-only", "joint"),
        source_sets=(("mri",),),
        repeats=2,
        config=config,
        fingerprints=prints,
    )
    write_json(home / "study" / "study.json", study.model_dump(mode="json"))
    checkpoint = home / "run" / "checkpoints" / STEP
    for kind, files in {
        "dataset": [data / "dataset.json"],
        "modality": [data / "ct" / "modality.json"],
        "prepare": [data / "ct" / "prepare.json"],
        "links": [data / "ct" / "links.json"],
        "identifiers": [data / "ct" / "identifiers.json"],
        "parquet": [data / "ct" / "slices.parquet"],
        "shard": [data / "ct" / "shards" / "00000.npy"],
        "split": [home / "run" / "split.json"],
        "model": [model / "model.json"],
        "weights": [model / "predictor.safetensors", model / "translator-mri.safetensors"],
        "tensors": [checkpoint / "networks.safetensors", checkpoint / "training.safetensors"],
        "state": [checkpoint / "state.json"],
        "study": [home / "study" / "study.json"],
        "config": [home / "run" / "config.json"],
    }.items():
        (seeds / kind).mkdir(parents=True)
        for file in files:
            shutil.copy(file, seeds / kind / file.name)
    _texts(seeds, home)


def _images(seeds: Path, phantoms: Path) -> None:
    for kind in ("dicom", "nifti", "png", "tiff", "nrrd", "meta"):
        (seeds / kind).mkdir(parents=True)
    write_phantoms(phantoms, patients={"ct": 1, "pet": 1}, slices=1, size=SIDE)
    (ct,) = phantoms.glob("ct/*/*.dcm")
    (pet,) = phantoms.glob("pet/*/*.dcm")
    for name, source in (("ct", ct), ("pet", pet)):
        _fixed(source, seeds / "dicom" / f"{name}.dcm")
    plain = seeds / "dicom" / "ct.dcm"
    pixels = pydicom.dcmread(plain).pixel_array
    for name, syntax in (
        ("implicit", ImplicitVRLittleEndian),
        ("big", ExplicitVRBigEndian),
        ("deflated", DeflatedExplicitVRLittleEndian),
    ):
        values = pydicom.dcmread(plain)
        values.file_meta.TransferSyntaxUID = syntax
        if syntax == ExplicitVRBigEndian:
            values.PixelData = pixels.astype(">u2").tobytes()
        pydicom.dcmwrite(
            seeds / "dicom" / f"{name}.dcm",
            values,
            implicit_vr=syntax == ImplicitVRLittleEndian,
            little_endian=syntax != ExplicitVRBigEndian,
            force_encoding=True,
        )
    for name, syntax in (
        ("jpeg", JPEGLosslessSV1),
        ("jpeg-ls", JPEGLSLossless),
        ("jpeg-2000", JPEG2000Lossless),
    ):
        _encode(plain, seeds / "dicom" / f"{name}.dcm", str(syntax))
    values = pydicom.dcmread(plain)
    values.compress(RLELossless, generate_instance_uid=False)
    values.save_as(seeds / "dicom" / "rle.dcm")
    values = pydicom.dcmread(plain)
    values.NumberOfFrames = 3
    values.PixelData = values.PixelData * 3
    values.save_as(seeds / "dicom" / "frames.dcm")
    random = np.random.default_rng(0)
    anatomy = draw_anatomy(random, age=50.0)
    slices = [render(anatomy, "mri", p, size=SIDE, rng=random) for p in np.linspace(0.2, 0.9, 9)]
    volume = np.clip(np.rint(np.stack(slices)), 0, 32767).astype(np.int16)
    directions = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
    geometry = Geometry((SIDE, SIDE, 9), (2.0, 2.0, 6.0), (0.0, 0.0, 0.0), directions)
    for kind, names in {
        "nifti": ("a.nii", "a.nii.gz"),
        "nrrd": ("a.nrrd",),
        "meta": ("a.mha",),
    }.items():
        for name in names:
            write_volume(seeds / kind / name, volume, geometry, facts={"PatientName": "x"})
    _raster(seeds, volume[4])


def _raster(seeds: Path, pixels: Array) -> None:
    deep = (pixels.astype(np.float32) / pixels.max() * 65535).astype(np.uint16)
    flat = (deep >> 8).astype(np.uint8)
    colour = np.stack([flat, flat.T, flat], axis=2)
    for name, some in (("deep", deep), ("flat", flat), ("colour", colour)):
        PIL.Image.fromarray(some).save(seeds / "png" / f"{name}.png")
    PIL.Image.fromarray(flat).convert("P").save(seeds / "png" / "palette.png")
    tifffile.imwrite(seeds / "tiff" / "deep.tif", deep)
    tifffile.imwrite(seeds / "tiff" / "packed.tif", deep, compression="zlib")
    tifffile.imwrite(seeds / "tiff" / "float.tif", deep.astype(np.float32), tile=(16, 16))
    three = np.stack([deep, deep, deep], axis=2)
    tifffile.imwrite(seeds / "tiff" / "colour.tif", three, photometric="rgb")
    PIL.Image.fromarray(flat).save(seeds / "tiff" / "pillow.tif", compression="tiff_lzw")


def _fixed(source: Path, target: Path) -> None:
    """Copy a DICOM file with an instance UID that is the same every time."""
    values = pydicom.dcmread(source)
    values.SOPInstanceUID = values.file_meta.MediaStorageSOPInstanceUID = "1.2.826.0.1.99.1"
    values.save_as(target)


def _encode(source: Path, target: Path, syntax: str) -> None:
    reader = gdcm.ImageReader()
    reader.SetFileName(str(source))
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(syntax)))
    assert reader.Read()
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(target))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()


def _texts(seeds: Path, home: Path) -> None:
    """Write a TOML configuration, label tables and a table of predictions."""
    for kind in ("toml", "table", "xlsx", "predictions"):
        (seeds / kind).mkdir()
    lines = ['method = "joint"']
    for section, values in PRESETS["debug"].items():
        lines.append(f"[{section}]")
        lines += [f"{key} = {json.dumps(value)}" for key, value in dict(values).items()]
    lines += ["[augment]", "erase_area = [0.02, 0.4]", "[split]", "train = 0.7"]
    (seeds / "toml" / "a.toml").write_text("\n".join(lines) + "\n")
    rows = [["patient", "age", "group", "file"]]
    rows += [[f"p{n}", f"{20.5 + n}", "old", f"p{n}.png"] for n in range(8)]
    for name, separator in (("a.csv", ","), ("a.tsv", "\t")):
        text = "\n".join(separator.join(row) for row in rows) + "\n"
        (seeds / "table" / name).write_text(text)
    pd.DataFrame(rows[1:], columns=rows[0]).to_excel(seeds / "xlsx" / "a.xlsx", index=False)
    names = Dataset(home / "data").modality("ct").slices["slice_id"].tolist()
    told = ["repeat,slice_id,prediction"]
    told += [f"{repeat},{name},{40 + repeat}.5" for repeat in (0, 1) for name in names]
    (seeds / "predictions" / "a.csv").write_text("\n".join(told) + "\n")
