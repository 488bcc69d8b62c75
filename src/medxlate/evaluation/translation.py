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
from medxlate.evaluation.batches import evenly_spaced, own_batches, own_rows
from medxlate.evaluation.feature_store import (
    FOLDER,
    FeatureStore,
    StoredFeatures,
    common_folder,
    gather_features,
)
from medxlate.evaluation.features import (
    Extractor,
    extract,
    find_extractors,
    open_store,
    to_eight_bit,
)
from medxlate.evaluation.fidelity import MOST_COMPARED, compare_features, deviations
from medxlate.evaluation.intervals import NORMAL, group_count
from medxlate.evaluation.results import Metric
from medxlate.evaluation.subject import Subject

FULL_RANK = 2048  # images below which the covariance of Inception's features has no full rank
SAMPLE = 512  # images of each set for an interval: its time grows with the third power
HIGHER = ("is", "precision", "recall")
BOUNDS = {"fid": (0.0, np.inf), "is": (1.0, np.inf), "precision": (0.0, 1.0), "recall": (0.0, 1.0)}
FETCH = "Fetch them with `medxlate fetch inception`, or give their file with --inception."
MORE = "Prepare more patients, or train again with another split.seed."


@dataclass(frozen=True)
class _Images:
    """Features of some images, and the patient of each."""

    features: StoredFeatures
    patients: Sequence[str]

    def __len__(self) -> int:
        return len(self.features)

    def some(self, rows: Sequence[int]) -> _Images:
        """Return some of them."""
        return _Images(self.features.some(rows), [self.patients[row] for row in rows])


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
        wanted: Figures of ``fidelity.NAMES``.
        extractors: See ``find_extractors``.
        inception: Inception's weights.
        download: Whether they may be downloaded.
        offline: Whether a download is refused even so.
        listener: Receives stages and warnings.

    Returns:
        A figure for each source, name and extractor; without a value where it could not be taken.
    """
    found, missing = find_extractors(
        subject, extractors, inception, download=download, offline=offline
    )
    metrics = [
        _missing(name, source, extractor, why, FETCH)
        for extractor, why in missing.items()
        for source in subject.translators
        for name in wanted
    ]
    real = subject.cohort.test[subject.info.target]
    for extractor in found:
        with (
            common_folder(subject.cohort.dataset.folder / FOLDER, listener) as folder,
            open_store(folder, extractor, subject.compute.device, listener=listener) as store,
        ):
            taker = _Taker(subject, extractor, store, listener)
            listener(Stage(f"Computing {extractor.name} features of {len(real)} real images"))
            reals = taker.real(real)
            for source in subject.translators:
                slices = subject.cohort.test[source]
                listener(Stage(f"Comparing {len(slices)} translated {source} images by features"))
                if len(slices) < 2 or len(real) < 2:
                    why = f"there are {len(slices)} translated and {len(real)} real test images"
                    metrics += [_missing(m, source, extractor.name, why, MORE) for m in wanted]
                    continue
                fakes = taker.translated(source)
                halves = taker.halves(min(len(slices), FULL_RANK), min(len(real), FULL_RANK), reals)
                if ranks().is_first:
                    metrics += _figures(fakes, reals, halves, extractor, wanted, source)
    shared = ranks().broadcast([each.model_dump(mode="json") for each in metrics])
    return tuple(Metric.model_validate(each) for each in shared)


class _Taker:
    """Takes the features of images; the processes of a job divide the batches."""

    def __init__(
        self, subject: Subject, extractor: Extractor, store: FeatureStore, listener: Listener
    ) -> None:
        self._subject = subject
        self._listener = listener
        self._extractor = extractor
        self._store = store

    def real(self, slices: Slices) -> _Images:
        """Take the features of images as they are."""
        return self._take(slices, (b.images for b in own_batches(slices, self._subject.batch_size)))

    def translated(self, source: str) -> _Images:
        """Take the features of a source's test images, translated batch by batch."""
        fakes = self._subject.translated[source]
        rows = own_rows(len(fakes), self._subject.batch_size)
        return self._take(self._subject.cohort.test[source], map(fakes.images, rows))

    def halves(self, one: int, other: int, tested: _Images) -> tuple[_Images, _Images] | None:
        """Take the features of two sets of real images of different patients.

        Test patients come first, then those of validation and training. Where there are too few,
        both sets are smaller in the same proportion.

        Args:
            one: The number of images in the first set.
            other: That in the second.
            tested: The test images' features, which are not taken again where they suffice.

        Returns:
            None where fewer than 2 images would be in a set.
        """
        cohort, target = self._subject.cohort, self._subject.info.target
        parts = [each[target] for each in (cohort.test, cohort.val, cohort.train)]
        rows = np.concatenate([part.rows for part in parts])
        by_patient: dict[str, list[int]] = {}
        for i, owner in enumerate(owner for part in parts for owner in part.patients):
            by_patient.setdefault(owner, []).append(i)
        wanted = (one, other)
        sides: tuple[list[int], list[int]] = ([], [])
        for images in by_patient.values():
            side = min((0, 1), key=lambda k: len(sides[k]) / wanted[k])
            sides[side].extend(images)
        share = min(1.0, *(len(each) / size for each, size in zip(sides, wanted, strict=True)))
        counts = [int(share * size) for size in wanted]
        if min(counts) < 2:
            return None
        if max(max(side[:count]) for side, count in zip(sides, counts, strict=True)) < len(tested):
            some, rest = (tested.some(side[:n]) for side, n in zip(sides, counts, strict=True))
            return some, rest
        task, image_size = cohort.dataset.info.task, parts[0].shape[1]
        table = cohort.tables[target]
        taken = [
            Slices(table, rows[chosen[:count]], task=task, image_size=image_size)
            for chosen, count in zip(sides, counts, strict=True)
        ]
        return self.real(taken[0]), self.real(taken[1])

    def _take(self, slices: Slices, images: Iterable[Tensor]) -> _Images:
        size, extractor = self._subject.batch_size, self._extractor
        batches = len(own_rows(len(slices), size))
        task = f"{slices.name} batches, {extractor.name}"
        eight_bit = map(to_eight_bit, counted(images, task, batches, self._listener))
        own = extract(eight_bit, extractor, self._subject.compute.device, self._store)
        gathered = gather_features(own, self._store, len(slices), size)
        return _Images(gathered, slices.patients)


def _figures(
    fakes: _Images,
    reals: _Images,
    halves: tuple[_Images, _Images] | None,
    extractor: Extractor,
    wanted: Sequence[str],
    source: str,
) -> list[Metric]:
    """Return the figures of a source by one extractor."""

    def compare(one: _Images, other: _Images) -> dict[str, float]:
        width, has_classes = extractor.width, extractor.has_classes
        pair = one.features, other.features
        return compare_features(*pair, wanted, width=width, has_classes=has_classes)

    values = compare(fakes, reals)
    floors = {} if halves is None else compare(*halves)
    spread, how = _spread(fakes, reals, extractor, list(values))
    notes = _notes(fakes, reals, halves)
    found = []
    for name in wanted:
        if name not in values:
            why = "these features have no classes" if name == "is" else "there are too few images"
            remedy = "Use Inception features." if name == "is" else MORE
            found.append(_missing(name, source, extractor.name, why, remedy))
            continue
        low, high = _interval(name, values[name], spread[name])
        found.append(
            Metric(
                group="translation",
                name=name,
                better="higher" if name in HIGHER else "lower",
                of="translated",
                source=source,
                features=extractor.name,
                value=values[name],
                low=low,
                high=high,
                interval=how if low is not None else "",
                n=len(fakes),
                reference=len(reals),
                floor=floors.get(name),
                notes=notes,
            )
        )
    return found


def _spread(
    fakes: _Images, reals: _Images, extractor: Extractor, names: Sequence[str]
) -> tuple[dict[str, float | None], str]:
    """Return the standard deviation of each figure, and how it was found."""
    p, q = (evenly_spaced(len(each), SAMPLE) for each in (fakes, reals))
    one, other = [fakes.patients[i] for i in p], [reals.patients[i] for i in q]
    spread = deviations(
        fakes.features[p], reals.features[q], (one, other), names, width=extractor.width
    )
    how = f"jackknife over {group_count(one)} and {group_count(other)} groups of patients"
    if max(len(fakes), len(reals)) > SAMPLE:
        how += f", on {SAMPLE} of the images (wider than on all)"
    return spread, how


def _interval(
    name: str, value: float, deviation: float | None
) -> tuple[float | None, float | None]:
    """Return a 95 % interval within the figure's bounds; none without a deviation."""
    if deviation is None:
        return None, None
    margin = NORMAL * deviation
    low, high = BOUNDS.get(name, (-np.inf, np.inf))
    return float(max(value - margin, low)), float(min(value + margin, high))


def _notes(
    fakes: _Images, reals: _Images, halves: tuple[_Images, _Images] | None
) -> tuple[str, ...]:
    notes = []
    counts = len(fakes), len(reals)
    if min(counts) < FULL_RANK:
        notes.append(
            f"fid is biased upwards below {FULL_RANK} images, and there are {counts[0]} translated "
            f"and {counts[1]} real ones: compare only results of equal numbers."
        )
    if halves is None:
        notes.append("There are too few real images for a real-versus-real reference.")
    else:
        own = tuple(map(len, halves))
        enough = tuple(min(each, FULL_RANK) for each in counts)
        few = "" if own == enough else ", all there are; fid of so few is larger"
        notes.append(
            f"The real-versus-real value compares {own[0]} real images with {own[1]} of other "
            f"patients, including training and validation patients{few}."
        )
    if max(counts) > MOST_COMPARED:
        notes.append(f"Precision and recall use {MOST_COMPARED} evenly spaced images.")
    return tuple(notes)


def _missing(name: str, source: str, extractor: str, why: str, remedy: str) -> Metric:
    return Metric(
        group="translation",
        name=name,
        better="higher" if name in HIGHER else "lower",
        of="translated",
        source=source,
        features=extractor,
        reason=f"{name} cannot be computed: {why}.",
        remedy=remedy,
    )


def eight_bit_windows(info: DatasetInfo, modalities: Sequence[str]) -> dict[str, str]:
    """Return, by modality, how values became the 8 bits that feature extractors see."""
    found = {}
    for name in modalities:
        recipe = info.modalities[name].recipe
        low, high = recipe.output_range
        if recipe.percentiles is not None or recipe.plugin is not None:
            window = f"{'percentiles' if recipe.plugin is None else 'limits'} of each scan"
        else:
            window = f"{low:g} to {high:g} {recipe.unit or 'stored values'}"
        found[name] = (
            f"recipe {recipe.kind}, {window} mapped to 0 to 255; values outside were clipped."
        )
    return found
