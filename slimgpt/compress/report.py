"""What a job leaves for people and machines: report.json, junit.xml and summary.txt.

They lie beside OUT, since they tell of times and of candidates that were not released.
"""

from __future__ import annotations

import json
from pathlib import Path

import slimgpt
from slimgpt.checkpoint.writer import write_text_durably
from slimgpt.compress.result import CompressResult
from slimgpt.compress.summary import as_text
from slimgpt.destination import require_writable
from slimgpt.errors import UsageError
from slimgpt.release.junit import junit_xml
from slimgpt.workspace import work_directory

JSON, JUNIT, SUMMARY = "report.json", "junit.xml", "summary.txt"


def report_directory(out: Path) -> Path:
    """Where a report goes unless the user says otherwise."""
    return out.with_name(out.name + ".report")


def require_report_directory(directory: Path, model: Path, out: Path) -> None:
    """Refuses a place where no report can go, or where it would change something else.

    Raises:
        UsageError: it can't be made or written to, or lies within MODEL, OUT or OUT.partial.
    """
    require_writable(directory, f"--report {directory}")
    for other in (model, out, work_directory(out)):
        if directory.resolve().is_relative_to(other.resolve()):
            raise UsageError(f"--report {directory} lies inside {other}: give a folder outside it")


def remove_report(directory: Path) -> None:
    """Removes what an earlier run left: a CI system would take it for this one's."""
    for name in (JSON, JUNIT, SUMMARY):
        (directory / name).unlink(missing_ok=True)


def write_report(directory: Path, result: CompressResult) -> None:
    """Writes the three files.

    Args:
        directory: is made.
        result: of the job.
    """
    directory.mkdir(parents=True, exist_ok=True)
    document = json.dumps(result.to_json(), indent=2, allow_nan=False)
    write_text_durably(directory / JSON, document + "\n")
    properties = {
        "model": result.model,
        "out": str(result.out),
        "slimgpt": slimgpt.__version__,
        "ratio": f"{result.plan.achieved:.6f}",
    }
    suite = junit_xml(
        result.gates, suite="slimgpt compress", seconds=result.seconds, properties=properties
    )
    write_text_durably(directory / JUNIT, suite)
    write_text_durably(directory / SUMMARY, as_text(result))
