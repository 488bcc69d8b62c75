"""Figures of translated test images as a set, with their doubt: fid, kid, is, precision, recall."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from medxlate.dataset.index import DatasetInfo
from medxlate.dataset.loading import Slices
from medxlate.evaluation.distribution import (
    SMALL,
    Features,
    compare_features,
    extract,
    kernel_distances,
    open_store,
    to_eight_bit,
)
from medxlate.evaluation.extractors import find_extractors
from medxlate.evaluation.results import Metric
from medxlate.evaluation.shared import common_folder, gather_features, share
from medxlate.evaluation.spread import (
    MOST,
    NEIGHBOURS,
    NORMAL,
    Set,
    deviations,
    resamples,
    within,
)
from medxlate.evaluation.store import FOLDER, FeatureStore, StoredFeatures
from medxlate.evaluation.subject import Subject
from medxlate.events import Listener, Stage
from medxlate.inference.engine import run
from medxlate.ranks import ranks

NAMES = ("fid", "kid", "is", "precision", "recall")
HIGHER = ("is", "precision", "recall")
FETCH = "Fetch it with `medxlate fetch inception`, or name its file with --inception."
MORE = "Prepare more patients, or train again with another split.seed."


@dataclass(frozen=True)
class _Images:
    """Features of some images, and whose they are."""

    stored: StoredFeatures
    patients: Sequence[str]

    def some(self) -> Set:
        """Return at most 2048 of them, evenly spaced."""
        keep = np.unique(np.linspace(0, len(self.stored) - 1, min(MOST, len(self.stored))))
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
        listener: Told of stages and warnings.

    Returns:
        A figure a source, name and extractor; without a value where it could not be taken.
    """
    found, lacks = find_extractors(
        subject, extractors, inception, download=download, offline=offline
    )
    metrics: list[Metric] = []
    if lacks and (extractors or not found):
        metrics += _without(subject, wanted, "inception", "Inception's weights are not here", FETCH)
    if not found and not lacks:
        why = "there is no predictor whose features could serve"
        metrics += _without(subject, wanted, "predictor", why, FETCH)
    real = subject.patients.test[subject.info.target]
    for features in found:
        with (
            common_folder(subject.patients.dataset.folder / FOLDER, listener) as place,
            open_store(place, features, subject.compute.device, listener=listener) as store,
        ):
            taker = _Taker(subject, features, store)
            listener(Stage(f"Taking the {features.name}'s features of {len(real)} real images"))
            reals = taker.real(real)
            halves = taker.halves(
                max((len(subject.patients.test[s]) for s in subject.translators), default=0)
            )
            for source in subject.translators:
                slices = subject.patients.test[source]
                listener(Stage(f"Comparing {len(slices)} translated {source} images by features"))
                if len(slices) < 2 or len(real) < 2:
                    why = f"there are {len(slices)} translated and {len(real)} real test images"
                    metrics += [_missing(m, source, features.name, why, MORE) for m in wanted]
                    continue
                fakes = taker.translated(source)
                if ranks().is_first:
                    metrics += _figures(fakes, reals, halves, features, wanted, source)
    told = ranks().tell([each.model_dump(mode="json") for each in metrics])
    return tuple(Metric.model_validate(each) for each in told)


class _Taker:
    """Takes the features of images, shared between the processes of a job."""

    def __init__(self, subject: Subject, features: Features, store: FeatureStore) -> None:
        self._subject = subject
        self._features = features
        self._store = store

    def real(self, slices: Slices) -> _Images:
        """Take those of images as they are."""
        return self._take(slices, (b.images for b in share(slices, self._subject.batch_size)))

    def translated(self, source: str) -> _Images:
        """Take those of a source's test images, translated batch by batch."""
        slices, network = self._subject.patients.test[source], self._subject.translators[source]
        batches = share(slices, self._subject.batch_size)
        made = (run(network.network, [b.images], compute=network.compute) for b in batches)
        return self._take(slices, made)

    def halves(self, size: int) -> tuple[_Images, _Images] | None:
        """Take those of two sets of real images of different patients, of ``size`` where possible.

        Test patients come first, then those of validation and training.
        """
        patients, target = self._subject.patients, self._subject.info.target
        parts = [each[target] for each in (patients.test, patients.val, patients.train)]
        rows = np.concatenate([part.rows for part in parts])
        owners = [owner for part in parts for owner in part.patients]
        sides: tuple[list[int], list[int]] = ([], [])
        for name in dict.fromkeys(owners):
            side = min(sides, key=len)
            own = [i for i, owner in enumerate(owners) if owner == name]
            side += own[: max(size - len(side), 0)]
        count = min(map(len, sides))
        if count < 2:
            return None
        task, side_px = patients.dataset.info.task, parts[0].shape[1]
        one, other = (
            Slices(patients.tables[target], rows[chosen[:count]], task=task, image_size=side_px)
            for chosen in sides
        )
        return self.real(one), self.real(other)

    def _take(self, slices: Slices, images: Iterable[Tensor]) -> _Images:
        device = self._subject.compute.device
        own = extract(map(to_eight_bit, images), self._features, device, self._store)
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
    drawn = [name for name in values if name != "kid"]
    count = resamples(min(MOST, len(fakes.stored)), min(MOST, len(reals.stored)), features.width)
    spread = deviations(fakes.some(), reals.some(), features.width, drawn) if drawn else {}
    notes = _notes(fakes, reals, halves, features)
    found = []
    for name in wanted:
        if name not in values:
            why = "these features have no classes" if name == "is" else "there are too few images"
            remedy = "Take Inception's features." if name == "is" else MORE
            found.append(_missing(name, source, features.name, why, remedy))
            continue
        low, high, how = _interval(name, values[name], spread, count, fakes, reals, features)
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
                interval=how,
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
    if min(len(fakes.stored), len(reals.stored)) > NEIGHBOURS:
        a, b = (each.some().rows[:, : features.width] for each in (fakes, reals))
        if "precision" in wanted:
            found["precision"] = float(within(a, b).mean())
        if "recall" in wanted:
            found["recall"] = float(within(b, a).mean())
    return found


def _interval(
    name: str,
    value: float,
    spread: Mapping[str, float],
    count: int,
    fakes: _Images,
    reals: _Images,
    features: Features,
) -> tuple[float | None, float | None, str]:
    if name == "kid":
        values = kernel_distances(fakes.stored, reals.stored, features.width)
        low, high = np.percentile(values, [2.5, 97.5])
        size = min(1000, len(fakes.stored), len(reals.stored))
        if size == len(fakes.stored) == len(reals.stored):
            return None, None, "none: each of its subsets is all images"
        return float(low), float(high), f"middle 95 % of {len(values)} subsets of {size}"
    apart = NORMAL * spread[name]
    how = f"1.96 standard deviations over {count} resamples of patients"
    if max(len(fakes.stored), len(reals.stored)) > MOST:
        how += f", among {MOST} of the images"
    return value - apart, value + apart, how


def _notes(
    fakes: _Images, reals: _Images, halves: tuple[_Images, _Images] | None, features: Features
) -> tuple[str, ...]:
    notes = []
    count = min(len(fakes.stored), len(reals.stored))
    if count < SMALL:
        notes.append(
            f"{len(fakes.stored)} translated and {len(reals.stored)} real images are few: fid is "
            f"biased upwards below {SMALL}; compare only figures of equal numbers."
        )
    if halves is None:
        notes.append("There are too few real images for a real-versus-real floor.")
    else:
        notes.append(
            f"The floor compares {len(halves[0].stored)} real images with as many of other "
            "patients, of training and validation too."
        )
    if max(len(fakes.stored), len(reals.stored)) > MOST:
        notes.append(f"Precision and recall are of {MOST} images, evenly spaced.")
    return tuple(notes)


def _without(
    subject: Subject, wanted: Sequence[str], features: str, why: str, remedy: str
) -> list[Metric]:
    return [
        _missing(name, source, features, why, remedy)
        for source in subject.translators
        for name in wanted
    ]


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
