"""What worker processes can be made to do; light, for every worker imports it."""

from __future__ import annotations

import os
import time

from medxlate.dataset.parts import PartJob, WrittenPart, write_part


def die_of_s03(task: PartJob) -> WrittenPart:
    """Read a scan; die, as a crashing decoder does, where it is called s03."""
    if task.scan.name == "s03":
        os._exit(9)
    return write_part(task)


def abort(*_: object) -> None:
    """End the process as C++ code does that meets the unexpected."""
    os.abort()


def hang(*_: object) -> None:
    time.sleep(99)
