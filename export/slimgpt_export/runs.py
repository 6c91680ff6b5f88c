"""What every export does: refuse a wrong MODEL or OUT, and work where no other run does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import slimgpt
from slimgpt.checkpoint.quantized import is_quantized
from slimgpt.destination import require_absent, require_apart, require_published
from slimgpt.errors import UsageError
from slimgpt.release.lineage import Lineage
from slimgpt.release.manifest import environment
from slimgpt.workspace import Workspace


def require_places(model: Path, out: Path) -> None:
    """Refuses an OUT that can't be written, and a MODEL of which nothing can be made.

    Raises:
        UsageError: OUT exists, or overlaps MODEL; MODEL is quantised.
    """
    require_absent(out)
    require_apart(model, out)
    if is_quantized(model):
        raise UsageError(f"{model} is quantised: give the MODEL that it was made from")


def fingerprint(recipe: Mapping[str, Any], lineage: Lineage, device: str) -> dict[str, Any]:
    """Everything that decides the bytes of an export.

    Args:
        recipe: what was done to the source.
        lineage: of it.
        device: kind of device that computes.
    """
    return {
        "recipe": dict(recipe),
        "source": lineage.source["digest"],
        "environment": environment(device),
        "slimgpt_version": slimgpt.__version__,
    }


def make_once(out: Path, mark: Mapping[str, Any], make: Callable[[Workspace], None]) -> None:
    """Makes OUT in a work directory that goes with it, unless a killed run had published it.

    No earlier run is taken up: what is unfinished is of no use.

    Args:
        out: appears complete or not at all.
        mark: see :func:`fingerprint`.
        make: writes in the work directory, and publishes.

    Raises:
        UsageError: OUT exists and is not the result of this very run, or another run is at work.
    """
    if out.exists():
        require_published(out, mark)
    work = Workspace(out)
    with closing(work):
        work.claim(mark, fresh=True)
        try:
            if not out.exists():  # else killed after publishing: only the clean-up was left
                make(work)
        finally:
            work.remove()
