"""Find the images below a folder, by what the files hold and not by what they are called."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Literal

from medxlate.errors import ImageError

Format = Literal["png", "jpeg", "tiff", "dicom"]

NOT_AN_IMAGE = "no image in spite of its suffix"

SUFFIXES: dict[str, Format] = {
    ".png": "png",
    ".jpg": "jpeg",
    ".jpeg": "jpeg",
    ".tif": "tiff",
    ".tiff": "tiff",
    ".dcm": "dicom",
    ".dicom": "dicom",
    ".ima": "dicom",
}


@dataclass(frozen=True)
class FoundImage:
    """A file that begins like an image.

    Attributes:
        path: Where it lies.
        relative: Its path below the folder that was searched, with forward slashes.
        format: What its first bytes say it is.
        suffix_lies: Whether its suffix names another format.
    """

    path: Path
    relative: str
    format: Format
    suffix_lies: bool


@dataclass(frozen=True)
class Search:
    """What a folder holds.

    Attributes:
        images: Files that begin like images, sorted by relative path.
        not_images: Relative paths of files with an image's suffix and no image's content.
        others: How many other files there are (tables, notes...).
    """

    images: tuple[FoundImage, ...]
    not_images: tuple[str, ...]
    others: int


def sniff(path: Path) -> Format | None:
    """Return the format that the file's first bytes show, or None.

    Raises:
        ImageError: The file cannot be opened.
    """
    try:
        with path.open("rb") as stream:
            head = stream.read(132)
    except OSError as problem:
        raise ImageError(f"{path} cannot be opened: {problem.strerror}.") from None
    if head[128:132] == b"DICM":  # before TIFF: some DICOM files begin like TIFF ones as well
        return "dicom"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if head.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if head[:4] in (b"II*\0", b"MM\0*"):
        return "tiff"
    return None


def find_images(root: Path, *, exclude: Sequence[str] = ()) -> Search:
    """Search ``root`` (a folder, or a single image file) recursively; hidden files are left out.

    Args:
        root: Where to search.
        exclude: Glob patterns of file names to leave out.

    Raises:
        ImageError: ``root`` does not exist or holds no image.
    """
    if root.is_file():
        paths, base = [root], root.parent
    elif root.is_dir():
        base = root
        paths = sorted(
            path
            for path in root.rglob("*")
            if path.is_file()
            and not any(part.startswith(".") for part in path.relative_to(root).parts)
        )
    else:
        raise ImageError(f"{root} does not exist.", "Name a folder of images or one image file.")
    images: list[FoundImage] = []
    not_images: list[str] = []
    others = 0
    excluded = 0
    for path in paths:
        if any(fnmatch(path.name, pattern) for pattern in exclude):
            excluded += 1
            continue
        named = SUFFIXES.get(path.suffix.lower())
        relative = path.relative_to(base).as_posix()
        format_ = sniff(path)
        if format_ is not None:
            images.append(FoundImage(path, relative, format_, named not in (None, format_)))
        elif named is not None:
            not_images.append(relative)
        else:
            others += 1
    if not images:
        found = f"{len(not_images) + others} other files" if paths else "nothing"
        found += f" and {excluded} excluded" if excluded else ""
        raise ImageError(
            f"{root} holds no PNG, JPEG, TIFF or DICOM image ({found} found).",
            "Check the path; files are recognised by their content.",
        )
    return Search(tuple(images), tuple(not_images), others)
