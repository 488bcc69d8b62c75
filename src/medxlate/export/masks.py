"""Which segmentation belongs to which image, by their names as people keep them.

Names are compared without the image's suffix and without the word that says what the file is:
``case_seg.nii.gz``, ``case.mask.nrrd``, ``mask_case.png`` and ``case-label.mha`` are of ``case``.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from medxlate.base.errors import DataError
from medxlate.images.find import image_suffix

_WORD = r"(?:hge[_-]?)?(?:seg|segm|segmentation|mask|msk|label|labels|labelmap|roi|dseg|gt)"
_AFTER = re.compile(rf"(?:^|[_\-. ]){_WORD}$", re.IGNORECASE)
_BEFORE = re.compile(rf"^{_WORD}[_. ]", re.IGNORECASE)
_CHANNEL = re.compile(r"_0000$")  # nnU-Net's first channel
_OF_DERIVATIVES = frozenset({"desc", "label", "space", "res", "seg", "atlas"})  # BIDS entities
NAMED = 3  # files in a message

Key = Callable[[str], str | None]


def is_named_as_mask(relative: str) -> bool:
    """Whether a file's name says that it is a segmentation."""
    stem = _stem(relative)
    return _core(stem) != stem


def folder_of(relative: str) -> str:
    """Return the folder of a relative path; "" at the root."""
    return relative.rpartition("/")[0]


def match_masks(images: Sequence[str], masks: Sequence[str], where: str) -> dict[str, str]:
    """Return the mask of each image that has one.

    The first of these that finds a mask decides: the same path; the same name in any folder; the
    name without nnU-Net's channel; the same entities of BIDS; a file that is just called ``mask``
    or the like, in the folder of the only image there or in that of the series.

    Args:
        images: Relative paths of images, or of folders that hold a series.
        masks: Relative paths of masks. Where some are named as masks, the others do not count.
        where: What messages call the masks' folder.

    Raises:
        DataError: Several masks fit an image, or one mask fits several.
    """
    named = [each for each in masks if is_named_as_mask(each)] or list(masks)
    found: dict[str, str] = {}
    for of_image, of_mask in _ways(images):
        table: dict[str, list[str]] = {}
        for mask in named:
            if (key := of_mask(mask)) is not None:
                table.setdefault(key, []).append(mask)
        new = {
            image: table[key]
            for image in images
            if image not in found and (key := of_image(image)) is not None and key in table
        }
        for image, fitting in new.items():
            if len(fitting) > 1:
                raise DataError(
                    f"Several masks in {where} fit {image}: {_listed(fitting)}.",
                    "Keep one of them there, or give each mask the path of its image.",
                )
            found[image] = fitting[0]
    _check_apart(found, where)
    return found


def _ways(images: Sequence[str]) -> list[tuple[Key, Key]]:
    """Return what an image and its mask may have in common, the surest first."""
    in_folder = Counter(map(folder_of, images))

    def alone(image: str) -> str | None:
        return folder_of(image) if in_folder[folder_of(image)] == 1 else None

    def path(image: str) -> str:
        return _joined(folder_of(image), _stem(image))

    def path_of_mask(mask: str) -> str | None:
        core = _core(_stem(mask))
        return _joined(folder_of(mask), core) if core else None

    def bare(mask: str) -> str | None:
        return folder_of(mask) if not _core(_stem(mask)) else None

    return [
        (path, path_of_mask),
        (_stem, lambda mask: _core(_stem(mask)) or None),
        (lambda image: _CHANNEL.sub("", _stem(image)), lambda mask: _core(_stem(mask)) or None),
        (_entities, _entities),
        (lambda image: image, bare),
        (alone, bare),
    ]


def _check_apart(found: Mapping[str, str], where: str) -> None:
    images: dict[str, list[str]] = {}
    for image, mask in found.items():
        images.setdefault(mask, []).append(image)
    for mask, sharing in images.items():
        if len(sharing) > 1:
            raise DataError(
                f"The mask {mask} in {where} fits several images: {_listed(sharing)}.",
                "Give each mask the path of its image.",
            )


def _entities(relative: str) -> str | None:
    """Return the entities of a BIDS name that a mask shares with its image."""
    name = _stem(relative)
    if not name.startswith("sub-"):
        return None
    parts = [part for part in name.split("_") if "-" in part]
    return "_".join(part for part in parts if part.partition("-")[0] not in _OF_DERIVATIVES)


def _joined(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _stem(relative: str) -> str:
    name = relative.rpartition("/")[2]
    return name[: len(name) - len(image_suffix(name))]


def _core(stem: str) -> str:
    """Return a name without the word that makes it a mask's."""
    after = _AFTER.sub("", stem)
    return after if after != stem else _BEFORE.sub("", stem)
