"""Figures of translated test images as a set, with intervals: fid, kid, is, precision, recall."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from medxlate.base.distributed import ranks
from medxlate.base.events import Listener, Stage, counted
from medxlate.dataset.index import DatasetInfo
from medxlate.dataset.loading import Slices
from medxlate.evaluation.distribution import (
    SMALL,
    Features,
    compare_features,
    extract,
    open_store,
    to_eight_bit,
)
from medxlate.evaluation.extractors import find_extractors
from medxlate.evaluation.jackknife import (
    MOST,
    NEIGHBOURS,
    NORMAL,
    SAMPLE,
    Set,
    deviations,
    statistics,
)
from medxlate.evaluation.results import Metric
from medxlate.evaluation.shared import (
    batch_count,
    common_folder,
    gather_features,
    share,
    shared_rows,
)
from medxlate.evaluation.store import FOLDER, FeatureStore, StoredFeatures
from medxlate.evaluation.subject import Subject

NAMES = ("fid", "kid", "is", "precision", "recall")
HIGHER = ("is", "precision", "recall")
BOUNDS = {"fid": (0.0, np.inf), "is": (1.0, np.inf), "precision": (0.0, 1.0), "recall": (0.0, 1.0)}
FETCH = "Fetch it with `medxlate fetch inception`, or name its file with --inception."
MORE = "Prepare more patients, or train again with another split.seed."


@dataclass(frozen=True)
class _Images:
    """Features of some images, and whose they are."""

    stored: StoredFeatures
    patients: Sequence[str]

    def some(self, most: int) -> Set:
        """Return at most so many of them, evenly spaced."""
        keep = np.unique(np.linspace(0, len(self.stored) - 1, min(most, len(self.stored))))
        rows = keep.astype(int)
        return Set(self.stored.rows(rows), [self.patients[i] for i in rows])


def translation_metrics(
    subject: Subject,
    wanted: Sequence[str],
    *,
    extractors: Sequence[str] = (),
    inception: Path | None = None,
    download: bool = False,
    offline: bool = False,
    listener: Listener,
) -> tuple[Metric, ...]:
    """Compare the translated test images of each source with real target images.

    The processes of a job divide the images; all get the same figures.

    Args:
        subject: What is judged.
        wanted: Of NAMES.
        extractors: See ``find_extractors``.
        inception: Inception's weights.
        download: Whether they may be downloaded.
        offline: Whether that is refused all the same.
        listener: Receives stages and warnings.

    Returns:
        A figure a source, name and extractor; without a value where it could not be taken.
    """
    found, lacking = find_extractors(
        subject, extractors, inception, download=download, offline=offline
    )
    metrics = [
        _missing(name, source, features, why, FETCH)
        for features, why in lacking.items()
        for source in subject.translators
        for name in wanted
    ]
    real = subject.patients.test[subject.info.target]
    for features in found:
        with (
            common_folder(subject.patients.dataset.folder / FOLDER, listener) as place,
            open_store(place, features, subject.compute.device, listener=listener) as store,
        ):
            taker = _Taker(subject, features, store, listener)
            listener(Stage(f"Taking the {features.name}'s features of {len(real)} real images"))
            reals = taker.real(real)
            for source in subject.translators:
                slices = subject.patients.test[source]
                listener(Stage(f"Comparing {len(slices)} translated {source} images by features"))
                if len(slices) < 2 or len(real) < 2:
                    why = f"there are {len(slices)} translated and {len(real)} real test images"
                    metrics += [_missing(m, source, features.name, why, MORE) for m in wanted]
                    continue
                fakes = taker.translated(source)
                halves = taker.halves(min(len(slices), SMALL), min(len(real), SMALL))
                if ranks().is_first:
                    metrics += _figures(fakes, reals, halves, features, wanted, source)
    told = ranks().broadcast([each.model_dump(mode="json") for each in metrics])
    return tuple(Metric.model_validate(each) for each in told)


class _Taker:
    """Takes the features of images, shared between the processes of a job."""

    def __init__(
        self, subject: Subject, features: Features, store: FeatureStore, listener: Listener
    ) -> None:
        self._subject = subject
        self._tell = listener
        self._features = features
        self._store = store

    def real(self, slices: Slices) -> _Images:
        """Take those of images as they are."""
        return self._take(slices, (b.images for b in share(slices, self._subject.batch_size)))

    def translated(self, source: str) -> _Images:
        """Take those of a source's test images, translated batch by batch."""
        fakes = self._subject.fakes[source]
        rows = shared_rows(len(fakes), self._subject.batch_size)
        return self._take(self._subject.patients.test[source], map(fakes.images, rows))

    def halves(self, one: int, other: int) -> tuple[_Images, _Images] | None:
        """Take those of two sets of real images of different patients, as large as is asked.

        Test patients come first, then those of validation and training. Where there are too few,
        both sets are smaller in the same measure; None where that leaves less than 2.
        """
        patients, target = self._subject.patients, self._subject.info.target
        parts = [each[target] for each in (patients.test, patients.val, patients.train)]
        rows = np.concatenate([part.rows for part in parts])
        own: dict[str, list[int]] = {}
        for i, owner in enumerate(owner for part in parts for owner in part.patients):
            own.setdefault(owner, []).append(i)
        wanted = (one, other)
        sides: tuple[list[int], list[int]] = ([], [])
        for images in own.values():
            side = min((0, 1), key=lambda k: len(sides[k]) / wanted[k])
            sides[side].extend(images)
        measure = min(1.0, *(len(each) / size for each, size in zip(sides, wanted, strict=True)))
        counts = [int(measure * size) for size in wanted]
        if min(counts) < 2:
            return None
        task, side_px = patients.dataset.info.task, parts[0].shape[1]
        taken = [
            Slices(patients.tables[target], rows[chosen[:count]], task=task, image_size=side_px)
            for chosen, count in zip(sides, counts, strict=True)
        ]
        return self.real(taken[0]), self.real(taken[1])

    def _take(self, slices: Slices, images: Iterable[Tensor]) -> _Images:
        device = self._subject.compute.device
        batches = batch_count(len(slices), self._subject.batch_size)
        told = counted(images, f"{slices.name} batches, {self._features.name}", batches, self._tell)
        own = extract(map(to_eight_bit, told), self._features, device, self._store)
        gathered = gather_features(own, self._store, len(slices), self._subject.batch_size)
        return _Images(gathered, slices.patients)


def _figures(
    fakes: _Images,
    reals: _Images,
    halves: tuple[_Images, _Images] | None,
    features: Features,
    wanted: Sequence[str],
    source: str,
) -> list[Metric]:
    """Return the figures of a source by one extractor."""
    values = _values(fakes, reals, wanted, features)
    floors = {} if halves is None else _values(*halves, wanted, features)
    sets = fakes.some(SAMPLE), reals.some(SAMPLE)
    spread = deviations(*sets, features.width, list(values))
    notes = _notes(fakes, reals, halves)
    found = []
    for name in wanted:
        if name not in values:
            why = "these features have no classes" if name == "is" else "there are too few images"
            remedy = "Take Inception's features." if name == "is" else MORE
            found.append(_missing(name, source, features.name, why, remedy))
            continue
        low, high = _interval(name, values[name], spread[name])
        found.append(
            Metric(
                group="translation",
                name=name,
                better="higher" if name in HIGHER else "lower",
                of="translated",
                source=source,
                features=features.name,
                value=values[name],
                low=low,
                high=high,
                interval=_how(sets, fakes, reals) if low is not None else "",
                n=len(fakes.stored),
                reference=len(reals.stored),
                floor=floors.get(name),
                notes=notes,
            )
        )
    return found


def _values(
    fakes: _Images, reals: _Images, wanted: Sequence[str], features: Features
) -> dict[str, float]:
    """Return figures by name, without those that cannot be taken."""
    plain = compare_features(fakes.stored, reals.stored, wanted, features)
    found = {m: plain[features.label(m)] for m in wanted if features.label(m) in plain}
    near = [name for name in wanted if name in ("precision", "recall")]
    if near and min(len(fakes.stored), len(reals.stored)) > NEIGHBOURS:
        sets = fakes.some(MOST), reals.some(MOST)
        every = [np.ones(len(each.rows), dtype=bool) for each in sets]
        figures = statistics(*sets, features.width, near)
        found |= {name: figure(*every) for name, figure in figures.items()}
    return found


def _interval(
    name: str, value: float, deviation: float | None
) -> tuple[float | None, float | None]:
    """Return a 95 % interval within the figure's bounds; none without a deviation."""
    if deviation is None:
        return None, None
    apart = NORMAL * deviation
    low, high = BOUNDS.get(name, (-np.inf, np.inf))
    return float(max(value - apart, low)), float(min(value + apart, high))


def _how(sets: tuple[Set, Set], fakes: _Images, reals: _Images) -> str:
    how = f"jackknife over {sets[0].groups} and {sets[1].groups} groups of patients"
    if max(len(fakes.stored), len(reals.stored)) > SAMPLE:
        how += f", of {SAMPLE} of the images: wider than of all"
    return how


def _notes(
    fakes: _Images, reals: _Images, halves: tuple[_Images, _Images] | None
) -> tuple[str, ...]:
    notes = []
    counts = len(fakes.stored), len(reals.stored)
    if min(counts) < SMALL:
        notes.append(
            f"{counts[0]} translated and {counts[1]} real images are few: fid is biased upwards "
            f"below {SMALL}; compare only figures of equal numbers."
        )
    if halves is None:
        notes.append("There are too few real images for a real-versus-real floor.")
    else:
        own = tuple(len(each.stored) for each in halves)
        enough = tuple(min(each, SMALL) for each in counts)
        few = "" if own == enough else ", all there are: fid of so few is larger"
        notes.append(
            f"Real against real compares {own[0]} real images with {own[1]} of other patients, of "
            f"training and validation too{few}."
        )
    if max(counts) > MOST:
        notes.append(f"Precision and recall are of {MOST} images, evenly spaced.")
    return tuple(notes)


def _missing(name: str, source: str, features: str, why: str, remedy: str) -> Metric:
    return Metric(
        group="translation",
        name=name,
        better="higher" if name in HIGHER else "lower",
        of="translated",
        source=source,
        features=features,
        reason=f"{name} cannot be taken: {why}.",
        remedy=remedy,
    )


def eight_bit_windows(info: DatasetInfo, modalities: Sequence[str]) -> dict[str, str]:
    """Return by modality how its values became the 8 bits that networks of features see."""
    found = {}
    for name in modalities:
        recipe = info.modalities[name].recipe
        low, high = recipe.output_range
        if recipe.percentiles is not None:
            window = "each scan's own percentiles of the recipe"
        else:
            window = f"{low:g} to {high:g} {recipe.unit or 'stored values'}"
        found[name] = f"{recipe.kind}: {window} became 0 to 255; what lies outside was cut."
    return found
