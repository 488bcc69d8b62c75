"""What a worker process of ``prepare`` can be made to do; light, for every worker imports it."""

from __future__ import annotations

import os

from medxlate.dataset.parts import PartJob, write_part


def die_of_s03(task: PartJob) -> int:
    """Read a scan; die, as a crashing decoder does, where it is called s03."""
    if task.scan.name == "s03":
        os._exit(9)
    return write_part(task)
