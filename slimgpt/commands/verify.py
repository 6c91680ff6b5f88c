"""``slimgpt verify``."""

from __future__ import annotations

from pathlib import Path

import click
from rich.table import Table

from slimgpt.commands.console import Console, accepted_everywhere, common, device_options


@click.command()
@click.argument("model")
@click.option("--source", help="The dense model: its digest, and KL and scores beside its own.")
@click.option("--quick", is_flag=True, help="Digests, shapes and signature, and no measuring.")
@click.option(
    "--data",
    type=click.Path(path_type=Path, exists=True),
    multiple=True,
    help="A file, or a folder of files, that the claims were measured on; found by their SHA-256. "
    "May be given again.",
)
@click.option(
    "--public-key",
    type=click.Path(path_type=Path),
    help="PEM of the key that model.sig must be made with.",
)
@device_options
@accepted_everywhere("seed")
@common
def verify(
    console: Console,
    model: str,
    source: str | None,
    quick: bool,
    data: tuple[Path, ...],
    public_key: Path | None,
    device: str,
    dtype: str,
) -> None:
    """Check that MODEL is intact and that what it claims is true.

    Digests, shapes, the source, the signature and the card are checked; then what slimgpt.json says
    was measured is measured again. Exit code 5 means that a check failed, 3 that one could not be
    made for want of --source or --data.
    """
    from slimgpt.checkpoint.locate import locate
    from slimgpt.checkpoint.reader import MANIFEST
    from slimgpt.release.signing import require_public_key
    from slimgpt.release.verify.verify import VerifyOptions
    from slimgpt.release.verify.verify import verify as check_all
    from slimgpt.resources import resolve_device

    if public_key:
        require_public_key(public_key)
    if not quick:
        resolve_device(device)
    # Of a checkpoint that lost its config.json, that is one of the findings.
    own = Path(model)
    directory = own if (own / MANIFEST).is_file() else locate(model)
    options = VerifyOptions(
        locate(source) if source else None, quick, data, public_key, device, dtype
    )
    verification = check_all(directory, options, console)
    table = Table("check", "", "found", title=model)
    for check in verification.checks:
        table.add_row(_printable(check.check), check.status, _printable(check.detail))
    console.result(verification.to_json(), table)
    verification.require(model)
    console.message(f"{model}: every check that was asked for passed")


def _printable(text: str) -> str:
    """Names come from files of anyone: what they hold must not steer a terminal."""
    line = " ".join(text.split())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
