"""Find the images below a folder, by what the files hold and not by what they are called."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase, translate
from pathlib import Path

from medxlate.base.errors import ImageError, plural
from medxlate.images.scan import Format, FoundImage
from medxlate.images.volumes import sniff_volume

NOT_AN_IMAGE = "not an image despite its suffix"
NOT_REGULAR = "it is not a regular file"

SUFFIXES: dict[str, Format] = {
    ".png": "png",
    ".jpg": "jpeg",
    ".jpeg": "jpeg",
    ".webp": "webp",
    ".tif": "tiff",
    ".tiff": "tiff",
    ".dcm": "dicom",
    ".dicom": "dicom",
    ".ima": "dicom",
    ".nii": "nifti",
    ".nii.gz": "nifti",
    ".hdr": "nifti",
    ".nrrd": "nrrd",
    ".nhdr": "nrrd",
    ".mha": "meta",
    ".mhd": "meta",
}
HEAD_BYTES = 512


@dataclass(frozen=True)
class Search:
    """What a folder holds.

    Attributes:
        images: Files that begin like images, sorted by relative path.
        not_images: Relative paths of files with an image's suffix and no image's content, and of
            files and folders that cannot be opened, with the reason.
        others: How many other files there are (tables, notes, pipes...).
    """

    images: tuple[FoundImage, ...]
    not_images: dict[str, str]
    others: int


def image_suffix(name: str) -> str:
    """Return the suffix by which a file name claims to be an image (``.nii.gz`` whole), or ""."""
    lower = name.lower()
    found = [suffix for suffix in SUFFIXES if lower.endswith(suffix) and len(lower) > len(suffix)]
    return name[-len(max(found, key=len)) :] if found else ""


def sniff(path: Path) -> Format | None:
    """Return the format that the file's first bytes show, or None.

    Raises:
        ImageError: The file cannot be opened.
    """
    try:
        with path.open("rb") as stream:
            head = stream.read(HEAD_BYTES)
    except OSError as problem:
        raise ImageError(f"the file cannot be opened: {problem.strerror}") from None
    if head[128:132] == b"DICM":  # before TIFF: some DICOM files begin like TIFF ones as well
        return "dicom"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if head.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp"
    if head[:4] in (b"II*\0", b"MM\0*"):
        return "tiff"
    if volume := sniff_volume(path, head):
        return volume
    return "dicom" if _is_bare_dicom(head) else None


def _is_bare_dicom(head: bytes) -> bool:
    """Whether this is a data set without preamble: it begins with a low element of group 2 or 8.

    Those are the group length, SpecificCharacterSet, ImageType and SOPClassUID.
    """
    if head[:4] not in (
        b"\x02\0\0\0", b"\x08\0\0\0", b"\x08\0\x05\0", b"\x08\0\x08\0", b"\x08\0\x16\0",
    ):  # fmt: skip
        return False
    explicit = head[4:6] in (b"UL", b"CS", b"OB", b"UI")
    return explicit or int.from_bytes(head[4:8], "little") <= 64


def find_images(root: Path, *, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> Search:
    r"""Search ``root`` (a folder, or a single image file) recursively; hidden files are left out.

    Links to folders are followed, each folder is read once. Only regular files are opened, so that
    no pipe or device is waited for.

    Relative paths are text: a byte that is not UTF-8 is written like ``\xff``, and a backslash
    before an x as ``\x5c``, so that different names never have the same text.

    Args:
        root: Where to search.
        include: Glob patterns; where there are any, only files that match one are taken.
        exclude: Glob patterns of files to leave out. A pattern with a slash is held against the
            relative path (``**`` stands for any number of folders), another against the name.

    Raises:
        ImageError: ``root`` does not exist, is neither a folder nor a regular file, cannot be
            opened, or holds no image.
    """
    check_root(root)
    wanted = [_Matcher(pattern) for pattern in include]
    unwanted = [_Matcher(pattern) for pattern in exclude]
    images: list[FoundImage] = []
    not_images: dict[str, str] = {}
    others = excluded = 0
    closed: dict[str, str] = {}
    for path, relative in _files(root, closed):
        if any(matches(relative) for matches in unwanted) or (
            wanted and not any(matches(relative) for matches in wanted)
        ):
            excluded += 1
            continue
        named = SUFFIXES.get(image_suffix(path.name).lower())
        try:
            regular = _is_regular(path)
            format_ = sniff(path) if regular else None
        except ImageError as problem:
            not_images[relative] = problem.message
            continue
        if format_ is not None:
            images.append(FoundImage(path, relative, format_, named not in (None, format_)))
        elif named is not None:
            not_images[relative] = NOT_AN_IMAGE if regular else NOT_REGULAR
        else:
            others += 1
    for folder, reason in closed.items():
        if not any(matches(folder) or matches(f"{folder}/*") for matches in unwanted):
            not_images[folder] = reason
    if not images:
        total = len(not_images) + others
        found = plural(total, "other file") if total else "nothing"
        found += f" and {excluded} excluded" if excluded else ""
        raise ImageError(
            f"{root} contains no PNG, JPEG, WebP, TIFF, DICOM, NIfTI, NRRD or MetaImage "
            f"({found} found).",
            "Check the path. Files are recognised by their content, not by their names.",
        )
    images.sort(key=lambda image: image.relative)
    return Search(tuple(images), dict(sorted(not_images.items())), others)


def check_root(root: Path) -> None:
    """Raise ImageError unless there is a folder or a regular file at ``root``."""
    try:
        mode = root.stat().st_mode
        if stat.S_ISDIR(mode):
            os.scandir(root).close()
    except FileNotFoundError:
        hint = "Give a folder of images or one image file."
        raise ImageError(f"{root} does not exist.", hint) from None
    except OSError as problem:
        raise ImageError(f"{root} cannot be opened: {problem.strerror}.") from None
    if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
        raise ImageError(
            f"{root} is neither a folder nor a regular file.",
            "Give a folder of images or one image file.",
        )


def _files(root: Path, closed: dict[str, str]) -> Iterator[tuple[Path, str]]:
    """Yield every visible entry that is not a folder, with its relative path.

    Args:
        root: A folder or a file.
        closed: Filled with the relative paths of folders that cannot be listed, and why.
    """
    if not root.is_dir():
        yield root, _readable(root.name)
        return

    seen = {_identity(root)}
    folders = [(root, "")]
    while folders:
        folder, prefix = folders.pop()
        try:
            with os.scandir(folder) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError as problem:
            closed[_readable(prefix[:-1])] = f"the folder cannot be opened: {problem.strerror}"
            continue
        below = []
        for entry in entries:
            path, relative = folder / entry.name, prefix + entry.name
            if entry.name.startswith("."):
                continue
            if not _is_folder(entry):
                yield path, _readable(relative)
            elif (identity := _identity(path)) is None or identity not in seen:
                seen.add(identity)  # a link back up would never end
                below.append((path, relative + "/"))
        folders += reversed(below)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _is_regular(path: Path) -> bool:
    """Whether this is a file that can be read to its end, or a link to one.

    Raises:
        ImageError: Permissions do not let it be seen.
    """
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError as problem:
        if problem.errno in (errno.ENOENT, errno.ELOOP):  # a link to nowhere or to itself
            return False
        raise ImageError(f"the file cannot be opened: {problem.strerror}") from None


def _identity(folder: Path) -> tuple[int, int] | None:
    try:
        status = folder.stat()
    except OSError:  # its own folder may be listed and no more
        return None
    return status.st_dev, status.st_ino


def _readable(name: str) -> str:
    """Return a name as text, see ``find_images``; different names never have the same text."""
    stored = os.fsencode(name).replace(b"\\x", b"\\x5cx")
    return stored.decode("utf-8", "backslashreplace")


class _Matcher:
    """A glob pattern; see ``find_images``."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._regex: re.Pattern[str] | None = None
        if "/" in pattern:
            *folders, last = pattern.strip("/").split("/")
            parts = ["(?:[^/]+/)*" if part == "**" else _segment(part) + "/" for part in folders]
            self._regex = re.compile("".join(parts) + (".+" if last == "**" else _segment(last)))

    def __call__(self, relative: str) -> bool:
        if self._regex is not None:
            return self._regex.fullmatch(relative) is not None
        return fnmatchcase(relative.rpartition("/")[2], self._pattern)


def _segment(part: str) -> str:
    """Return the regular expression of one path component's pattern."""
    pieces = re.findall(r"\[!?\]?[^\]]*\]|\*|[^*\[]+|\[", part)
    return "".join("[^/]*" if piece == "*" else _literal(piece) for piece in pieces)


def _literal(piece: str) -> str:
    body = translate(piece)  # (?s:...)\Z, in which ? and [...] are already turned
    return body[body.index(":") + 1 : body.rindex(")")]
