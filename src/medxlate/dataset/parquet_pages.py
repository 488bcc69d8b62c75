"""The sizes that the pages of a parquet file claim, read before anything is unpacked.

The file's own metadata says how large its columns are, but readers allocate what each page's header
says (parquet.thrift, PageHeader; Thrift's compact protocol).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO

MOST_PAGES = 1 << 16  # of a column chunk
MOST_DEPTH = 8  # of structures in a page's header
_HEADER = 1 << 16  # bytes of a page's header; its statistics are the longest part
BOOLEANS, BYTE, INTEGERS, DOUBLE, BINARY, LISTS, STRUCT = (1, 2), 3, (4, 5, 6), 7, 8, (9, 10), 12


def claimed_bytes(stream: BinaryIO, metadata: Any) -> int:
    """Return what all pages of a file claim to unpack to, bytes.

    Args:
        stream: The file.
        metadata: Its pyarrow FileMetaData.

    Raises:
        ValueError: The pages do not fill their columns as the metadata says.
    """
    total = 0
    for group in range(metadata.num_row_groups):
        for number in range(metadata.num_columns):
            column = metadata.row_group(group).column(number)
            start = column.data_page_offset
            if column.has_dictionary_page:
                start = min(start, column.dictionary_page_offset)
            total += sum(_pages(stream, start, start + column.total_compressed_size))
    return total


def _pages(stream: BinaryIO, start: int, end: int) -> Iterator[int]:
    for _ in range(MOST_PAGES):
        if start == end:
            return
        stream.seek(start)
        header = _Compact(stream.read(_HEADER))
        found = header.struct()
        unpacked, packed = found.get(2, -1), found.get(3, -1)
        start += header.at + packed
        if unpacked < 0 or packed < 0 or start > end:
            break
        yield unpacked
    raise ValueError("slices.parquet has damaged pages")


class _Compact:
    """Reads a structure in Thrift's compact protocol, of which integers are kept."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.at = 0

    def struct(self, depth: int = 0) -> dict[int, int]:
        """Return the integers of a structure by field; others are passed over."""
        if depth > MOST_DEPTH:
            raise ValueError("slices.parquet has damaged pages")
        found: dict[int, int] = {}
        field = 0
        while (head := self._byte()) != 0:
            field = field + (head >> 4) if head >> 4 else self._integer()
            value = self._value(head & 15, depth)
            if value is not None:
                found[field] = value
        return found

    def _value(self, kind: int, depth: int) -> int | None:
        if kind in INTEGERS:
            return self._integer()
        if kind in (BYTE, DOUBLE):
            self.at += 1 if kind == BYTE else 8
        elif kind == BINARY:
            length = self._varint()  # first: it moves ``at`` itself
            self.at += length
        elif kind in LISTS:
            head = self._byte()
            for _ in range(head >> 4 if head >> 4 < 15 else self._varint()):
                self._value(BYTE if head & 15 in BOOLEANS else head & 15, depth + 1)
        elif kind == STRUCT:
            self.struct(depth + 1)
        elif kind not in BOOLEANS:
            raise ValueError("slices.parquet has damaged pages")
        return None

    def _integer(self) -> int:
        number = self._varint()
        return (number >> 1) ^ -(number & 1)  # zigzag

    def _varint(self) -> int:
        number = 0
        for shift in range(0, 70, 7):
            byte = self._byte()
            number |= (byte & 127) << shift
            if byte < 128:
                return number
        raise ValueError("slices.parquet has damaged pages")

    def _byte(self) -> int:
        if self.at >= len(self.content):
            raise ValueError("slices.parquet has damaged pages")
        self.at += 1
        return self.content[self.at - 1]
