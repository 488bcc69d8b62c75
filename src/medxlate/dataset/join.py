"""Whether a modality fits a dataset, and the dataset that includes it."""

from __future__ import annotations

from medxlate._version import __version__
from medxlate.base.errors import UsageError
from medxlate.dataset.index import DatasetInfo, ModalityInfo
from medxlate.dataset.labels import AGE_UNITS, Task
from medxlate.dataset.options import PrepareOptions

DEFAULT_SIZE = 256


def agreed_size(size: int | None, existing: DatasetInfo | None) -> int:
    """Return the side of the squares, pixels: as asked, as the dataset has, or the default.

    Raises:
        UsageError: They differ, or the size cannot be used.
    """
    if existing is not None:
        if size not in (None, existing.image_size):
            raise UsageError(
                f"The images of the dataset are {existing.image_size} px, not {size} px.",
                "Drop --size, or prepare into another folder with --data.",
            )
        return existing.image_size
    size = DEFAULT_SIZE if size is None else size
    if size < 32 or size % 4:
        raise UsageError(f"--size {size} must be a multiple of 4, at least 32.")
    return size


def check_task(existing: DatasetInfo | None, modality: str, options: PrepareOptions) -> None:
    """Raise UsageError unless the label is that of the dataset's other modalities."""
    if existing is None or not set(existing.modalities) - {modality}:
        return
    known = existing.task
    if (options.task, options.task_name, options.task_unit) != (known.kind, known.name, known.unit):
        raise UsageError(
            f"The label of the dataset is {known.name} ({known.kind}, unit '{known.unit}'), not "
            f"{options.task_name} ({options.task}, unit '{options.task_unit}').",
            _how_to_agree(options, known),
        )


def _how_to_agree(options: PrepareOptions, known: Task) -> str:
    """Return the hint for two modalities with different labels."""
    units = (options.task_unit, known.unit)
    if options.age_in is not None and len(set(units)) == 2 and AGE_UNITS.keys() >= set(units):
        return f"Give both ages in {known.unit}: --unit names the unit but converts nothing."
    return f"If both mean the same, add --label-name {known.name} --unit '{known.unit}'."


def joined(
    existing: DatasetInfo | None,
    modality: str,
    info: ModalityInfo,
    *,
    options: PrepareOptions,
    size: int,
) -> DatasetInfo:
    """Return the dataset with the modality added."""
    task = Task(kind=options.task, name=options.task_name, unit=options.task_unit)
    others = {} if existing is None else dict(existing.modalities)
    others.pop(modality, None)
    if task.kind == "classification":
        classes = {name for each in (info, *others.values()) for name in each.labels}
        task = task.model_copy(update={"classes": tuple(sorted(classes))})
    return DatasetInfo(
        medxlate=__version__,
        image_size=size,
        task=task,
        modalities={**others, modality: info},
    )
