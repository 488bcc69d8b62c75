"""A run of ``prepare`` that writes: parts first, then the modality's folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from medxlate.dataset.assemble import Assembled, assemble
from medxlate.dataset.duplicates import Duplicate, near_duplicates
from medxlate.dataset.identifiers import Identifiers
from medxlate.dataset.index import (
    MODALITY_FILE,
    SUMMARY,
    Dataset,
    DatasetInfo,
    ModalityInfo,
    load_key,
    read_info,
    save_key,
)
from medxlate.dataset.join import agreed_size, check_task, joined
from medxlate.dataset.options import PrepareOptions
from medxlate.dataset.parts import Task, crashed_part, write_part
from medxlate.dataset.plan import Plan, make_plan, plain
from medxlate.errors import DataError
from medxlate.events import Listener, Progress, Stage, Warned
from medxlate.files import whole_file, whole_folder, write_json
from medxlate.images.find import Search
from medxlate.parallel import Mapper, processes

MARKER = "prepare.json"
FEW = 48  # files: below that, starting processes takes longer than it saves
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
            plan = make_plan(
                search,
                modality=self.modality,
                options=self.options,
                mapper=mapper,
                listener=self.listener,
            )
            self.work.mkdir(parents=True, exist_ok=True)
            tasks = [Task(scan, plan.recipe, self.size, self.work) for scan in plan.scans]
            self._read(tasks, mapper)
        return self._write(plan, tasks)

    def _read(self, tasks: list[Task], mapper: Mapper) -> None:
        """Write the parts that are missing."""
        total, done = sum(len(task.scan.files) for task in tasks), 0
        self.listener(Progress("files", 0, total))
        for files in mapper(write_part, tasks, crashed_part):
            done += files
            self.listener(Progress("files", done, total))

    def _write(self, plan: Plan, tasks: list[Task]) -> PrepareResult:
        """Put the parts together. First the folder comes to its place, then the summary."""
        key = load_key(self.data)
        with (
            whole_file(self.data / SUMMARY) as summary,
            whole_folder(
                self.data / self.modality, marker=MARKER, overwrite=self.overwrite
            ) as partial,
        ):
            content = assemble(partial, plan, tasks, size=self.size, key=key)
            skipped = dict(sorted({**plan.found.skipped, **content.skipped}.items()))
            info = self._usable(content, skipped)
            existing = read_info(self.data)  # another prepare may have added a modality meanwhile
            agreed_size(self.size, existing)
            check_task(existing, self.modality, self.options)
            dataset = joined(existing, self.modality, info, options=self.options, size=self.size)
            pairs = self._duplicates(content.table, existing)
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
            )
            write_json(partial / MARKER, self._record(result, plan))
            self._identifiers(plan).save(partial)
            save_key(self.data, key)
            write_json(partial / MODALITY_FILE, info.model_dump(mode="json"))
            summary.write_text(dataset.model_dump_json(indent=2) + "\n", encoding="utf-8")
        self._warn(result)
        return result

    def _usable(self, content: Assembled, skipped: dict[str, str]) -> ModalityInfo:
        """Return the modality's summary; raise DataError where it may not be written."""
        if content.info is not None and not (self.strict and skipped):
            return content.info
        name, reason = next(iter(skipped.items()), ("", "nothing was left"))
        reason = f"{name}: {reason}".rstrip(".")
        if content.info is not None:
            raise DataError(
                f"{len(skipped)} files cannot be used (--strict); the first, {reason}.",
                "Mend them, or leave --strict out to skip and list them.",
            )
        hint = "Check --labels, --file and --patient."
        if "recipe" in reason or "SUV" in reason:
            hint = "Check --recipe, --window and --percentiles."
        if self.options.task == "regression" and "is no number" in reason:
            hint = "For classes, add --task classification."
        raise DataError(f"No image can be used; the first, {reason}.", hint)

    def _duplicates(self, table: pd.DataFrame, existing: DatasetInfo | None) -> list[Duplicate]:
        """Return the images that two patients share, in this modality or with another one."""
        tables = {self.modality: table}
        names = set(existing.modalities) - {self.modality} if existing else set()
        for name in sorted(names):
            tables[name] = Dataset(self.data).modality(name).slices
        pairs = near_duplicates(tables).pairs
        return [pair for pair in pairs if self.modality in (pair.modality, pair.other_modality)]

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
            "other_files": plan.found.others,
            "options": plain(self.options),
        }

    def _identifiers(self, plan: Plan) -> Identifiers:
        values = set(plan.found.identifiers)
        values |= {annotation.patient for annotation in plan.annotations.values()}
        values |= {file.relative for scan in plan.scans for file in scan.files}
        values.add(str(self.raw.resolve()))
        return Identifiers(frozenset(values))

    def _warn(self, result: PrepareResult) -> None:
        place = self.data / self.modality / MARKER
        if result.skipped:
            self.listener(Warned(f"{len(result.skipped)} files were left out; {place} lists why."))
        if result.duplicates:
            self.listener(
                Warned(
                    f"{len(result.duplicates)} pairs of images are the same, or nearly, in two "
                    f"patients; {place} lists them. Such patients stay on one side of a split."
                )
            )


def mapper_for(search: Search, options: PrepareOptions) -> AbstractContextManager[Mapper]:
    """Return the processes that the options ask for; none for few files."""
    return processes(1 if len(search.images) < FEW else options.workers or 1)


def work_folder(data: Path, modality: str) -> Path:
    """Return where a modality's parts lie while it is being prepared."""
    return data / f".{modality}.parts"
