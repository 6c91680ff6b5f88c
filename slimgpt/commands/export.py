"""``slimgpt export``: other forms of a checkpoint."""

from __future__ import annotations

from pathlib import Path

import click
from rich.text import Text

from slimgpt.commands.console import Console, accepted_everywhere, common
from slimgpt.errors import UsageError


@click.group()
def export() -> None:
    """Write a checkpoint in another form."""


@export.command()
@click.argument("model")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@accepted_everywhere("seed", "device", "dtype")
@common
def bom(console: Console, model: str, file: Path) -> None:
    """Write a bill of materials of MODEL to FILE: CycloneDX 1.6 JSON (ML-BOM).

    It names what MODEL was made from, with what and on which data, what was measured, and the
    SHA-256 of every file, as slimgpt.json has them. `slimgpt verify` tells whether they are true.
    """
    from slimgpt.checkpoint.locate import locate
    from slimgpt.release.bom import write_bom

    directory = locate(model)
    _require_new(file, directory)
    document = write_bom(directory, file)
    found = len(document["metadata"]["component"]["components"])
    console.result(
        {"file": str(file), "serial_number": document["serialNumber"], "files": found},
        Text(f"{file}: CycloneDX 1.6, {found} files of {model}"),
    )


def _require_new(file: Path, model: Path) -> None:
    """Refuses to overwrite, and to add a file that the manifest would not know."""
    if file.exists() or file.is_symlink():
        raise UsageError(f"{file} exists: give a FILE that does not, or remove it first")
    if not file.parent.is_dir():
        raise UsageError(f"FILE {file} can't be made: {file.parent} is no directory")
    if file.resolve().is_relative_to(model.resolve()):
        raise UsageError(
            f"FILE {file} lies inside MODEL {model}, whose files slimgpt.json lists: give one "
            "outside"
        )
