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
from slimgpt.errors import UsageError
from slimgpt.release.junit import junit_xml

JSON, JUNIT, SUMMARY = "report.json", "junit.xml", "summary.txt"


def report_directory(out: Path) -> Path:
    """Where a report goes unless the user says otherwise."""
    return out.with_name(out.name + ".report")


def require_report_directory(directory: Path, out: Path) -> None:
    """Refuses a place where no report can go.

    Raises:
        UsageError: it is a file, or lies within OUT.
    """
    if directory.exists() and not directory.is_dir():
        raise UsageError(f"--report {directory} is a file: give a folder")
    if directory.resolve().is_relative_to(out.resolve()):
        raise UsageError(f"--report {directory} lies inside OUT {out}: give a folder outside it")


def write_report(directory: Path, result: CompressResult) -> None:
    """Writes the three files, over those of an earlier run.

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
