"""A program that decodes compressed frames, one after the other, until its input ends.

The decoders in C++ end their process at some kinds of damage. Run as a file, with nothing of
medxlate imported, so that it starts quickly.

A request is two lengths (big endian, 32 bits), a JSON object of pydicom attributes by keyword with
``syntax``, and the compressed frame. The answer is a length and that many bytes: the NumPy type,
three characters, and the pixels row by row; 0 and nothing where it cannot be decoded.
"""

from __future__ import annotations

import json
import struct
import sys
import warnings
from typing import Any, BinaryIO

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels.utils import pixel_array
from pydicom.uid import UID


def decode(attributes: dict[str, Any], stream: bytes) -> Any:
    """Return the pixels of a compressed frame as an array [rows, columns].

    Args:
        attributes: The attributes of the Image Pixel Module by keyword, and ``syntax``, the
            transfer syntax UID.
        stream: The compressed frame.
    """
    frame = Dataset()
    frame.file_meta = FileMetaDataset()
    frame.file_meta.TransferSyntaxUID = UID(attributes["syntax"])
    for keyword, value in attributes.items():
        if keyword != "syntax":
            setattr(frame, keyword, value)
    frame.PixelData = encapsulate([stream])
    frame["PixelData"].VR = "OB"
    frame["PixelData"].is_undefined_length = True
    return pixel_array(frame)


def answer(attributes: dict[str, Any], stream: bytes) -> bytes:
    """Return what is sent back for a request."""
    try:
        pixels = decode(attributes, stream)
    except Exception:  # decoders fail in many ways
        return b""
    kind = str(pixels.dtype.newbyteorder("<").str)
    return kind.encode().ljust(3) + bytes(pixels.tobytes())


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer requests until there are no more."""
    while len(head := requests.read(8)) == 8:
        lengths = struct.unpack(">II", head)
        attributes = json.loads(requests.read(lengths[0]))
        payload = answer(attributes, requests.read(lengths[1]))
        answers.write(struct.pack(">I", len(payload)) + payload)
        answers.flush()


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    serve(sys.stdin.buffer, sys.stdout.buffer)
