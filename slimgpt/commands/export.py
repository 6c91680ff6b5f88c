"""``slimgpt export``: other forms of a checkpoint."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path

import click
from rich.text import Text

from slimgpt.commands.console import Console, accepted_everywhere, common
from slimgpt.errors import UsageError

FORMATS = {
    "onnx": "slimgpt.commands.export_onnx:onnx",
    "stock": "slimgpt.commands.export_stock:stock",
    "quantized": "slimgpt.commands.export_quantized:quantized",
}
SUMMARIES = {
    "bom": "A bill of materials: CycloneDX 1.6 JSON (ML-BOM).",
    "onnx": "One graph for ONNX Runtime, with whole, 8-bit or 4-bit weights.",
    "stock": "Weights and config that transformers and vLLM load without slimgpt.",
    "quantized": "Fewer bits a weight.",
}


class Formats(click.Group):
    """Commands that are imported when they are called; one that is not installed is not shown."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        there = [name for name, where in FORMATS.items() if _installed(where)]
        return [*super().list_commands(ctx), *there]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in FORMATS or not _installed(FORMATS[cmd_name]):
            return super().get_command(ctx, cmd_name)
        module, _, attribute = FORMATS[cmd_name].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, SUMMARIES[name]) for name in self.list_commands(ctx)])


def _installed(where: str) -> bool:
    return importlib.util.find_spec(where.partition(":")[0]) is not None


@click.group(cls=Formats)
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
