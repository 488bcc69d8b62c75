"""Decodes compressed frames in a process of its own, which damaged ones may end or hold up."""

from __future__ import annotations

import atexit
import json
import os
import struct
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medxlate.base.errors import ImageError

PROGRAM = Path(__file__).with_name("decoder_process.py")
TIME_LIMIT = 60.0  # seconds for one frame
DAMAGED = "its pixels cannot be decoded: they are damaged or compressed in an unusual way"


def decode(attributes: Mapping[str, Any], stream: bytes) -> npt.NDArray[Any]:
    """Return the pixels of a compressed frame, one array of Rows x Columns values.

    Args:
        attributes: The attributes of the Image Pixel Module by keyword, and ``syntax``, the
            transfer syntax UID.
        stream: The compressed frame.

    Raises:
        ImageError: It cannot be decoded, or not within a minute.
    """
    payload = _decoder().ask(json.dumps(dict(attributes)).encode(), stream)
    kind, pixels = payload[:3].decode("ascii").strip(), payload[3:]
    shape = (attributes["Rows"], attributes["Columns"])
    found = np.frombuffer(pixels, kind) if payload else np.empty(0)
    if found.size != shape[0] * shape[1]:
        raise ImageError(DAMAGED)
    return found.reshape(shape)


class _Decoder:
    """The other process; it ends when this one does, since then its input ends."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        self.lock = threading.Lock()
        self.process: subprocess.Popen[bytes] | None = None

    def ask(self, attributes: bytes, stream: bytes) -> bytes:
        """Return the answer to a request, b"" where the process ended or was too slow."""
        with self.lock:
            process = self._running()
            watch = threading.Timer(TIME_LIMIT, process.kill)
            watch.start()
            try:
                return _exchange(process, attributes, stream)
            except (OSError, struct.error):
                self.close()
                return b""
            finally:
                watch.cancel()

    def close(self) -> None:
        """End the process."""
        if self.process is None or self.owner != os.getpid():
            return
        process, self.process = self.process, None
        process.kill()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
        process.wait()

    def _running(self) -> subprocess.Popen[bytes]:
        if self.process is None or self.process.poll() is not None:
            self.close()
            self.process = subprocess.Popen(
                [sys.executable, "-P", str(PROGRAM)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
            )
        return self.process


_current = _Decoder()
atexit.register(lambda: _current.close())


def _decoder() -> _Decoder:
    global _current
    if _current.owner != os.getpid():  # a fork: the process belongs to the parent
        _current = _Decoder()
    return _current


def _exchange(process: subprocess.Popen[bytes], attributes: bytes, stream: bytes) -> bytes:
    assert process.stdin is not None
    assert process.stdout is not None
    request = struct.pack(">II", len(attributes), len(stream)) + attributes + stream
    rest = memoryview(request)
    while rest:
        rest = rest[process.stdin.write(rest) :]
    (length,) = struct.unpack(">I", _read(process, 4))
    return _read(process, length)


def _read(process: subprocess.Popen[bytes], count: int) -> bytes:
    assert process.stdout is not None
    parts = []
    while count:
        part = process.stdout.read(count)
        if not part:
            raise OSError("the decoder has ended")
        parts.append(part)
        count -= len(part)
    return b"".join(parts)
