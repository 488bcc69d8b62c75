"""A run of ``prepare`` that writes: parts first, then the modality's folder."""

from __future__ import annotations

import shutil
from collections import Counter, deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from medxlate.base.distributed import ranks
from medxlate.base.errors import DataError, plural
from medxlate.base.events import Listener, Progress, Stage, Warned
from medxlate.base.files import locked, remove_stale, whole_file, whole_folder, write_json
from medxlate.base.journal import Journal
from medxlate.base.pool import Mapper, processes
from medxlate.dataset.assemble import Assembled, assemble
from medxlate.dataset.duplicates import Duplicate, near_duplicates
from medxlate.dataset.identifiers import Identifiers
from medxlate.dataset.index import (
    KEY_FILE,
    MODALITY_FILE,
    SUMMARY,
    DatasetInfo,
    Modality,
    ModalityInfo,
    fingerprint,
    load_key,
    other_modalities,
    read_info,
    save_key,
)
from medxlate.dataset.join import agreed_size, check_task, joined
from medxlate.dataset.labels import count_labels, label_notes
from medxlate.dataset.links import links_of, save_links
from medxlate.dataset.options import PrepareOptions
from medxlate.dataset.parts import Part, PartJob, crashed_part, noted_part, write_part
from medxlate.dataset.plan import Plan, make_plan, plain
from medxlate.dataset.reasons import hint_of, in_words
from medxlate.dataset.spellings import (
    Respelled,
    name_patients,
    refuse_respelled,
    warn_respelled,
)
from medxlate.images.find import Search
from medxlate.images.scan import HARMLESS, VOLUME_FORMATS, add_note

MARKER = "prepare.json"
FEW = 128  # files: below that, starting processes takes longer than it saves
LISTED_PAIRS = 1000


@dataclass(frozen=True)
class PrepareResult:
    """What ``prepare`` did.

    Attributes:
        dataset: The whole dataset as it now is; as it was, where nothing was written.
        modality: The modality just prepared.
        state: ``prepared``; ``unchanged``: it was there already, made from the same files with
            the same options; ``planned``: a dry run.
        files: How many files looked like images.
        images: How many slices the modality holds, or, of a dry run, the files that would be read.
        scans: How many series, volumes and single images were read.
        patients: From how many patients.
        skipped: Files left out because they cannot be used, and why.
        left_out: How many files the options left out, by reason.
        notes: Files that were read although something about them is odd.
        duplicates: Images that two patients share, exactly or nearly.
        respelled: Patients whose id is written in more than one way, here or in another modality.
        label_notes: What is odd about the labels together; see ``labels.label_notes``.
        seconds: How long it took.
    """

    dataset: DatasetInfo | None
    modality: str
    state: str
    files: int
    images: int
    scans: int
    patients: int
    skipped: Mapping[str, str]
    left_out: Mapping[str, int] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)
    duplicates: tuple[Duplicate, ...] = ()
    respelled: tuple[Respelled, ...] = ()
    label_notes: tuple[str, ...] = ()
    seconds: float = 0.0

    def reasons(self) -> dict[str, int]:
        """Return how many files were skipped, by kind of reason, most frequent first."""
        kinds = (reason.partition(": ")[0] for reason in self.skipped.values())
        return dict(Counter(kinds).most_common())


@dataclass(frozen=True)
class Job:
    """One run that writes; see ``prepare`` for the attributes."""

    raw: Path
    data: Path
    modality: str
    options: PrepareOptions
    size: int
    mark: str
    overwrite: bool
    strict: bool
    listener: Listener

    @property
    def work(self) -> Path:
        """The folder of parts."""
        return work_folder(self.data, self.modality)

    def run(self, search: Search) -> PrepareResult:
        """Read what is missing and write the modality's folder.

        Raises:
            UsageError, DataError: See ``prepare``.
        """
        total = len(search.images)
        self.listener(Stage(f"Preparing {self.modality}: {total} files in {self.raw}"))
        with mapper_for(search, self.options) as mapper:
            plan = self._plan(search, mapper)
            shutil.rmtree(self._assembled, ignore_errors=True)  # of a run that was killed
            try:
                parts = self._parts(self._journal(), self._jobs(plan), mapper)
                content = assemble(self._assembled, plan, parts, size=self.size)
                return self._write(plan, content, search)
            finally:
                shutil.rmtree(self._assembled, ignore_errors=True)

    def help(self, search: Search) -> None:
        """Read this process's share of the parts; the first of the job puts them together.

        Raises:
            UsageError, DataError: See ``prepare``.
        """
        with mapper_for(search, self.options) as mapper:
            jobs = self._jobs(self._plan(search, mapper))
            deque(self._read(self._journal(), jobs, mapper), maxlen=0)
            ranks().barrier()

    def _plan(self, search: Search, mapper: Mapper) -> Plan:
        return make_plan(
            search,
            modality=self.modality,
            options=self.options,
            mapper=mapper,
            listener=self.listener,
        )

    @property
    def _assembled(self) -> Path:
        return self.work / "assembled"

    def _journal(self) -> Journal:
        self.work.mkdir(0o700, parents=True, exist_ok=True)  # patients' pixels
        return Journal(self.work, self._parts_folder)

    @property
    def _parts_folder(self) -> Path:
        return self.work / "parts"

    def _jobs(self, plan: Plan) -> list[PartJob]:
        return [PartJob(scan, plan.recipe, self.size, self._parts_folder) for scan in plan.scans]

    def _parts(
        self, journal: Journal, jobs: Sequence[PartJob], mapper: Mapper
    ) -> Iterator[tuple[PartJob, Part]]:
        """Yield each part, in order, as soon as it is there; those that are missing are read."""
        with closing(self._read(journal, jobs, mapper)) as read:
            if not ranks().is_alone:
                deque(read, maxlen=0)
                for job, entry in zip(jobs, journal.entries(jobs), strict=True):
                    yield job, noted_part(job, entry)
                return
            for job in jobs:
                while job not in journal:
                    next(read)
                yield job, noted_part(job, journal.entry(job))

    def _read(
        self, journal: Journal, jobs: Sequence[PartJob], mapper: Mapper
    ) -> Generator[None, None, None]:
        """Read this process's share of the missing parts in order; yield when one is noted."""
        missing = journal.missing(jobs)
        self._parts_folder.mkdir(exist_ok=True)
        total, done = sum(len(job.scan.files) for job in missing), 0
        self.listener(Progress("files", 0, total))
        with journal.noting() as note:
            parts = mapper(write_part, missing, crashed_part)
            for job, part in zip(missing, parts, strict=True):
                note(job, part.entry, part.files)
                done += len(job.scan.files)
                self.listener(Progress("files", done, total))
                yield

    def _write(self, plan: Plan, content: Assembled, search: Search) -> PrepareResult:
        """Put the modality into the dataset."""
        skipped = dict(sorted({**plan.found.skipped, **content.skipped}.items()))
        for name, note in content.notes.items():
            add_note(plan.found.notes, name, note)
        info = self._usable(content, plan, skipped)
        # Other modalities may be prepared at the same time; they join one after the other.
        with locked(self.data / ".dataset.lock", wait=True):
            for name in (SUMMARY, KEY_FILE):
                remove_stale(self.data, name)
            key = load_key(self.data)
            existing = read_info(self.data)
            others = other_modalities(self.data, existing, self.modality)
            tables = {name: other.slices for name, other in others.items()}
            distinct = self.options.as_spelled
            named = name_patients(content.table, tables, key, distinct=distinct)
            refuse_respelled(named.respelled, strict=self.strict, spellings=named.spellings)
            table = content.table.assign(patient=named.patients, folded_id=named.folded)
            info = info.model_copy(update={"patients": int(table["patient"].nunique())})
            table.to_parquet(self._assembled / "slices.parquet", index=False)
            pairs = self._duplicates(table, info, others)
            agreed_size(self.size, existing)
            check_task(existing, self.modality, self.options)
            dataset = joined(existing, self.modality, info, options=self.options, size=self.size)
            result = PrepareResult(
                dataset,
                self.modality,
                "prepared",
                files=plan.found.files,
                images=info.images,
                scans=info.series,
                patients=info.patients,
                skipped=skipped,
                left_out=plan.found.left_out,
                notes=dict(sorted(plan.found.notes.items())),
                duplicates=tuple(pairs),
                respelled=named.respelled,
                label_notes=label_notes(
                    count_labels(table["label"].tolist(), dataset.task.classes),
                    dataset.task.kind,
                    dataset.task.name,
                ),
            )
            write_json(self._assembled / MARKER, self._record(result, plan))
            write_json(self._assembled / MODALITY_FILE, info.model_dump(mode="json"))
            self._identifiers(plan, search).save(self._assembled)
            self._place(dataset, key)
        self._warn(result)
        warn_respelled(named, others, self.listener)
        return result

    def _place(self, dataset: DatasetInfo, key: bytes) -> None:
        """Put first the folder in its place, then the summary."""
        with (
            whole_file(self.data / SUMMARY) as summary,
            whole_folder(
                self.data / self.modality, marker=MARKER, overwrite=self.overwrite
            ) as partial,
        ):
            for path in sorted(self._assembled.iterdir()):
                path.rename(partial / path.name)
            save_key(self.data, key)
            summary.write_text(dataset.model_dump_json(indent=2) + "\n", encoding="utf-8")

    def _usable(self, content: Assembled, plan: Plan, skipped: dict[str, str]) -> ModalityInfo:
        """Return the modality's summary; raise DataError where it may not be written."""
        if content.info is not None:
            refuse_unusable(skipped, strict=self.strict)
            return content.info
        if not skipped or sum(plan.found.left_out.values()) > len(skipped):
            reasons = (
                f"{plural(count, 'file')}: {why}" for why, count in plan.found.left_out.items()
            )
            raise DataError(
                f"No image can be used. Left out: {', '.join(reasons)}.",
                "Check --modality and --dicom-modality.",
            )
        raise DataError(f"No image can be used. {in_words(skipped)}.", hint_of(skipped))

    def _duplicates(
        self, table: pd.DataFrame, info: ModalityInfo, others: Mapping[str, Modality]
    ) -> list[Duplicate]:
        """Return the images that two patients share, in this modality or with another one.

        The patients who share them are kept, for each two modalities: any of them may be trained
        on without the others.
        """
        prints = {self.modality: fingerprint(info.recipe, table)}
        pairs = {self.modality: near_duplicates({self.modality: table}).pairs}
        for name, other in others.items():
            prints[name] = other.fingerprint()
            pairs[name] = near_duplicates({self.modality: table, name: other.slices}).pairs
        links = {name: links_of(found) for name, found in pairs.items()}
        save_links(self._assembled, self.modality, prints, links)
        here = {pair for found in pairs.values() for pair in found}
        return sorted(p for p in here if self.modality in (p.modality, p.other_modality))

    def _record(self, result: PrepareResult, plan: Plan) -> dict[str, Any]:
        """Return the content of prepare.json: the same for the same input."""
        return {
            "made_from": self.mark,
            "files": result.files,
            "images": result.images,
            "scans": result.scans,
            "patients": result.patients,
            "skipped": result.skipped,
            "left_out": result.left_out,
            "notes": result.notes,
            "duplicates": [asdict(pair) for pair in result.duplicates[:LISTED_PAIRS]],
            "respelled": [asdict(each) for each in result.respelled[:LISTED_PAIRS]],
            "label_notes": result.label_notes,
            "other_files": plan.found.others,
            "options": plain(self.options),
        }

    def _identifiers(self, plan: Plan, search: Search) -> Identifiers:
        values = set(plan.found.identifiers)
        values |= {annotation.patient for annotation in plan.annotations.values()}
        values |= {image.relative for image in search.images} | set(search.not_images)
        values.add(str(self.raw.resolve()))
        return Identifiers(frozenset(values))

    def _warn(self, result: PrepareResult) -> None:
        for note in result.label_notes:
            self.listener(Warned(note))
        place = self.data / self.modality / MARKER
        if result.skipped:
            self.listener(
                Warned(
                    f"{plural(len(result.skipped), 'file')} left out; see {place} for the reasons."
                )
            )
        if result.duplicates:
            self.listener(
                Warned(
                    f"{plural(len(result.duplicates), 'pair')} of (nearly) identical images from "
                    f"two different patients; see {place}. A split keeps such patients together."
                )
            )


def refuse_unusable(skipped: Mapping[str, str], *, strict: bool) -> None:
    """Raise DataError under ``strict`` where a file cannot be used.

    Copies, localizers, near-empty slices and second slices at one position are left out of sound
    data, too: they are no reason to refuse.
    """
    bad = {name: reason for name, reason in skipped.items() if not reason.startswith(HARMLESS)}
    if strict and bad:
        raise DataError(
            f"--strict: {plural(len(bad), 'file')} cannot be used. {in_words(bad)}.",
            "Repair them, or drop --strict to skip and list them.",
        )


def mapper_for(search: Search, options: PrepareOptions) -> AbstractContextManager[Mapper]:
    """Return the processes that the options ask for; none for a few small files."""
    volumes = any(image.format in VOLUME_FORMATS for image in search.images)
    few = len(search.images) < FEW and not volumes
    return processes(1 if few else options.workers or 1)


def work_folder(data: Path, modality: str) -> Path:
    """Return where a modality's parts lie while it is being prepared."""
    return data / f".{modality}.parts"
