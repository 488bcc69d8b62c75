"""``medxlate fetch``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medxlate.cli import complete
from medxlate.cli.options import INPUT, OUTPUT, Json, Offline, flag, listed, option

if TYPE_CHECKING:
    from medxlate.pretrained import Fetched

_SAYS = {
    "published": "its hash is the published one",
    "recorded": "its hash is the one recorded when it was fetched",
    "nothing": "no hash is published, so its own was recorded in the file .sha256 beside it",
}


def fetch(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAMES",
            help=f"Weights to download: {listed(complete.PRETRAINED)}.",
            autocompletion=complete.of(complete.PRETRAINED),
        ),
    ] = None,
    out: Annotated[
        Path | None,
        option(
            "--out",
            "-o",
            panel=OUTPUT,
            metavar="DIR",
            help="Folder to write. Default: where torch.hub keeps weights.",
        ),
    ] = None,
    list_: Annotated[
        bool, flag("--list", panel=INPUT, help="List the weights that can be downloaded.")
    ] = False,
    check: Annotated[
        Path | None,
        option(
            "--check",
            panel=INPUT,
            metavar="FILE",
            help="Check the hash of a file that was copied here.",
        ),
    ] = None,
    offline: Offline = False,
    json: Json = False,
) -> None:
    """Download pretrained weights and check their hashes, also for machines without internet.

    A file with a wrong hash is not kept. A file that is there already is checked, and not
    downloaded again.

    ```
    # On a machine with internet
    $ medxlate fetch inception resnet50 --out weights

    # On the machine without it, after copying the folder
    $ medxlate fetch --check weights/resnet50.a1_in1k.safetensors
    ```
    """
    from medxlate.cli.console import reporting, table

    with reporting(json=json) as reporter:
        from medxlate import pretrained
        from medxlate.base.errors import UsageError

        if list_ + bool(names) + (check is not None) != 1:
            raise UsageError(
                "Name the weights to download, or use --list or --check FILE.",
                "Try `medxlate fetch --list`.",
            )
        if list_:
            rows = [
                [each.name, each.url, each.license, each.sha256 or "none published", each.used_by]
                for each in pretrained.REGISTRY.values()
            ]
            head = ["name", "from", "license", "SHA-256 begins with", "for"]
            value = {"weights": [asdict(each) for each in pretrained.REGISTRY.values()]}
            reporter.result(value, table("Pretrained weights", head, rows))
            return
        if check is not None:
            found = [pretrained.check(check, pretrained.REGISTRY)]
        else:
            for name in names or []:  # an unknown name is an error before any download
                pretrained.find(name, pretrained.REGISTRY)
            found = [
                pretrained.fetch(
                    name,
                    out=out,
                    offline=offline,
                    registry=pretrained.REGISTRY,
                    listener=reporter,
                )
                for name in names or []
            ]
        lines = [f"{each.path}: {_SAYS[each.checked]} ({each.sha256[:16]}...)." for each in found]
        reporter.result({"files": [_record(each) for each in found]}, *lines)


def _record(fetched: Fetched) -> dict[str, Any]:
    return {**asdict(fetched), "path": str(fetched.path)}
