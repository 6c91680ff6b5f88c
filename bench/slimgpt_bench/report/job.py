"""``slimgpt report`` from its paths to its file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from slimgpt.checkpoint.writer import write_text_durably
from slimgpt.destination import require_writable
from slimgpt.errors import IntegrityError, UsageError
from slimgpt_bench.report.page import render
from slimgpt_bench.report.runs import Pages, gather


def make_report(paths: Sequence[Path], file: Path, *, overwrite: bool = False) -> Pages:
    """Reads everything, then writes the page whole.

    Args:
        paths: saved results and pruned checkpoints.
        file: to write.
        overwrite: a file that is there is replaced.

    Returns:
        What the page shows.

    Raises:
        UsageError: a path is nothing to report, or the file can't be made.
        IntegrityError: something is damaged.
        EnvironmentProblem: jinja2 is missing.
    """
    require_place(file, overwrite=overwrite)
    pages = gather(paths)
    try:
        text = render(pages)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as reason:
        # The schema leaves much free that measurements may add; files may come from anyone.
        raise IntegrityError(
            f"what these results tell can't be shown, so one of them is damaged: {reason!r:.200}"
        ) from reason
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text_durably(file, text)
    return pages


def require_place(file: Path, *, overwrite: bool) -> None:
    """Refuses a ``--to`` that can't be written.

    Raises:
        UsageError: with what stands in the way.
    """
    if file.is_dir() or file.name in ("", ".."):
        raise UsageError(f"--to {file} is a directory: give a file, like {file / 'report.html'}")
    try:
        there = os.path.lexists(file)
    except ValueError as reason:
        raise UsageError(f"--to {file}: {reason}") from None
    if there and not overwrite:
        raise UsageError(f"--to {file} exists: give --overwrite, or another file")
    require_writable(file.parent, f"--to {file}")
