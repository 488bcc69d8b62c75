"""BIDS: a translated data set is a derivative data set, named and described as the standard wants.

https://bids-specification.readthedocs.io, version ``BIDS_VERSION``: "BIDS Derivatives".
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medxlate._version import __version__
from medxlate.base.errors import DataError, MedxlateError, UsageError
from medxlate.base.files import write_json
from medxlate.base.records import in_markdown, read_object
from medxlate.images.scan import Scan
from medxlate.images.texts import sidecar_of
from medxlate.inference.names import Key

if TYPE_CHECKING:
    from medxlate.inference.outputs import Made  # loads torch

BIDS_VERSION = "1.11.1"
DESCRIPTION = "dataset_description.json"
DERIVATIVES = "derivatives"
LINK = "source"  # what BIDS URIs call the data set that was translated
NOT_RAW = ("derivatives/**", "sourcedata/**", "code/**")
NOT_MAGNITUDE = ("*_part-phase_*", "*_part-real_*", "*_part-imag_*")

# The folder of each suffix. BIDS has no name for CT yet (its proposal BEP024 is open).
ANAT = ("T1w", "T2w", "PDw", "T2starw", "FLAIR", "inplaneT1", "inplaneT2", "PDT2", "angio", "UNIT1")
FOLDERS = {**dict.fromkeys(ANAT, "anat"), "pet": "pet", "ct": "ct"}
CALLED = {"t1": "T1w", "t2": "T2w", "pd": "PDw", "t2star": "T2starw", "pt": "pet"}
# The entities that a derivative of each folder may have, beside desc (rules.files.deriv.imaging).
_SHARED = ("sub", "ses", "task", "rec", "run", "space", "res")
ENTITIES = {
    "anat": (*_SHARED, "acq", "ce", "echo", "part", "chunk"),
    "pet": (*_SHARED, "trc"),
}
_NAME = re.compile(r"(sub-[^_/]+(?:_[^_/-]+-[^_/]+)*)_([A-Za-z0-9]+)(\.nii(?:\.gz)?)")
RECORD = "translation.json"  # medxlate's own, of every translation


@dataclass(frozen=True)
class BidsLayout:
    """How a BIDS data set is read, and its translation named.

    Attributes:
        root: The data set.
        include: Glob patterns of the images that are taken.
        suffix: What the translated images are called.
        about: The content of its ``dataset_description.json``.
    """

    root: Path
    include: tuple[str, ...]
    suffix: str
    about: Mapping[str, Any]

    @property
    def exclude(self) -> tuple[str, ...]:
        """Glob patterns of what is never taken."""
        return (*NOT_RAW, *NOT_MAGNITUDE)

    @property
    def folder(self) -> str:
        """The folder of the translated images: ``anat``, ``pet`` or ``ct``."""
        return FOLDERS[self.suffix]

    def names(self, scans: Sequence[Scan]) -> dict[Key, str]:
        """Return the output's relative path for each image.

        Raises:
            UsageError: An image is not named as BIDS wants it, or two would have the same name.
        """
        names = {(scan.files[0].relative, 0): self._name(scan.files[0].relative) for scan in scans}
        counts = Counter(names.values())
        for (relative, _), name in names.items():
            if counts[name] > 1:
                twice = [file for (file, _), other in names.items() if other == name]
                raise UsageError(
                    f"{' and '.join(twice[:2])} would both become {name}: in BIDS, "
                    f"{self.folder} has no name for what tells them apart.",
                    f"Translate them one by one: --include '{relative}'.",
                )
        return names

    def describe(
        self,
        out: Path,
        place: Path,
        made: Made,
        scans: Sequence[Scan],
        written: Sequence[tuple[str, int, str]],
    ) -> None:
        """Write the files that say what the data set and each of its images is.

        Nothing of the sources' own JSON files is copied but whether the skull was stripped.

        Args:
            out: The folder to write into.
            place: Where it will lie.
            made: How the images were made.
            scans: What they were made from.
            written: Input file, frame and output of each image.
        """
        where = Path(os.path.relpath(self.root.resolve(), place.resolve())).as_posix()
        title = f"{self.about.get('Name') or 'BIDS data set'}: {made.source} translated to "
        title += f"synthetic {made.target}"
        write_json(out / DESCRIPTION, self._description(title, where, made))
        (out / "README.md").write_text(self._readme(title), encoding="utf-8")
        ignored = [f"/{RECORD}", *(["ct"] if self.suffix == "ct" else [])]
        (out / ".bidsignore").write_text("\n".join(ignored) + "\n", encoding="utf-8")
        by_file = {scan.files[0].relative: scan for scan in scans}
        for relative, _, name in written:
            sidecar = _sidecar(relative, by_file[relative], made)
            write_json(sidecar_of(out / name), sidecar)

    def _description(self, title: str, where: str, made: Made) -> dict[str, Any]:
        doi = str(self.about.get("DatasetDOI") or "").removeprefix("doi:")
        by = {"Name": "medxlate", "Version": __version__}
        return {
            "Name": title,
            "BIDSVersion": BIDS_VERSION,
            "DatasetType": "derivative",
            "GeneratedBy": [{**by, "Description": f"Generator with SHA-256 {made.generator}."}],
            "SourceDatasets": [{"DOI": f"doi:{doi}"} if doi else {"URL": where}],
            "DatasetLinks": {LINK: f"https://doi.org/{doi}" if doi else where},
        }

    def _readme(self, title: str) -> str:
        text = (
            f"# {in_markdown(title)}\n\nEvery image of this data set is **synthetic**: a neural "
            "network made it from an image of another modality. Nothing here was measured, and "
            "nothing here is for diagnosis.\n\n`desc-synthetic` marks each image; the JSON file "
            f"beside it says what it was made from. `{RECORD}` lists all of them.\n"
        )
        if self.suffix == "ct":
            text += (
                f"\nBIDS {BIDS_VERSION} has no name for CT (its proposal BEP024 is open). "
                "Images are called `_ct`, in folders `ct/`, which `.bidsignore` names.\n"
            )
        return text

    def _name(self, relative: str) -> str:
        *folders, file = relative.split("/")
        found = _NAME.fullmatch(file)
        if found is None or not folders or not file.startswith(folders[0] + "_"):
            raise UsageError(
                f"{relative} is not named as BIDS wants it: sub-01/anat/sub-01_T1w.nii.gz.",
                "Leave it out with --exclude, or translate the folder as it is with --no-bids.",
            )
        kept = ENTITIES.get(self.folder)
        parts = [
            part
            for part in found[1].split("_")
            if part.partition("-")[0] != "desc" and (kept is None or part.split("-")[0] in kept)
        ]
        name = "_".join([*parts, "desc-synthetic", self.suffix]) + found[3]
        return "/".join([*folders[:-1], self.folder, name])


def wants_bids(root: Path, choice: bool | None) -> bool:
    """Whether a folder is translated as a BIDS data set.

    Args:
        root: The folder.
        choice: The user's; None: there is none.
    """
    if choice is not None or not (root / DESCRIPTION).is_file():
        return bool(choice)
    try:
        return "BIDSVersion" in read_object(root / DESCRIPTION, error=DataError)
    except MedxlateError:
        return False


def bids_layout(
    root: Path, *, source: str, target: str, suffix: str = "", include: Sequence[str] = ()
) -> BidsLayout:
    """Return how a BIDS data set is translated.

    Args:
        root: The data set.
        source: The modality that is read, such as ``t1``.
        target: The modality that is made, such as ``ct``.
        suffix: What BIDS calls the target; "": by its name.
        include: Glob patterns of the images; default: those that BIDS calls like the source.

    Raises:
        UsageError: It is not known what BIDS calls the source or the target.
        DataError: ``dataset_description.json`` is missing or damaged.
    """
    hint = "A BIDS data set has one in its root; --no-bids translates a folder as it is."
    about = read_object(root / DESCRIPTION, error=DataError, hint=hint, needs=("BIDSVersion",))
    called = suffix or _suffix_of(target)
    if called not in FOLDERS:
        raise UsageError(
            f"It is not known what BIDS calls the modality {suffix or target}.",
            f"Name it: --bids-suffix {', '.join(sorted(FOLDERS))}.",
        )
    return BidsLayout(root, tuple(include) or _images_of(root, source), called, about)


def _suffix_of(modality: str) -> str:
    """Return what BIDS calls a modality, or ""."""
    plain = re.sub(r"[\W_]", "", modality).lower()
    known = {name.lower(): name for name in FOLDERS}
    return CALLED.get(plain) or known.get(plain, "")


def _images_of(root: Path, source: str) -> tuple[str, ...]:
    """Return glob patterns of the images of a modality."""
    suffix = _suffix_of(source)
    if not suffix:
        found = [
            match[2]
            for path in root.glob("sub-*/**/anat/*.nii*")
            if (match := _NAME.fullmatch(path.name)) and match[2] in ANAT
        ]
        kinds = sorted(set(found))
        if len(kinds) != 1:
            listed = ", ".join(kinds) if kinds else "none of the anatomy"
            raise UsageError(
                f"It is not known which images of {root} are {source}: it holds {listed}.",
                "Say it with --include '*_T1w.nii.gz'.",
            )
        suffix = kinds[0]
    return tuple(f"sub-*/**/*_{suffix}{ending}" for ending in (".nii", ".nii.gz"))


def _sidecar(relative: str, scan: Scan, made: Made) -> dict[str, Any]:
    """Return what the JSON file of a translated image holds."""
    source = f"bids:{LINK}:{relative}"
    values: dict[str, Any] = {
        "Description": f"Synthetic {made.target}, made from {made.source} by a neural network. "
        "Not measured, and not for diagnosis.",
        "Sources": [source],
        "SpatialReference": source,
        "SkullStripped": scan.tags.get("SkullStripped") == "True",
        "Synthetic": True,
        "GeneratorSHA256": made.generator,
        "MedxlateVersion": __version__,
    }
    return values | ({"Units": made.recipe.unit} if made.recipe.unit else {})
