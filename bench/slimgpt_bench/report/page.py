"""The page: sections put into the template, style and all, as one file."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from slimgpt.errors import missing_extra
from slimgpt_bench.report.blocks import Section
from slimgpt_bench.report.runs import Pages
from slimgpt_bench.report.sections.latencies import latency
from slimgpt_bench.report.sections.loads import load
from slimgpt_bench.report.sections.memories import memory
from slimgpt_bench.report.sections.models import errors, gates, shapes
from slimgpt_bench.report.sections.origins import origins, problems
from slimgpt_bench.report.sections.plans import capacity
from slimgpt_bench.report.sections.qualities import quality
from slimgpt_bench.report.sections.speed import speed
from slimgpt_bench.report.sections.verdict import title, verdict

_TEMPLATES = Path(__file__).parent / "templates"
_ORDER: tuple[Callable[[Pages], Section | None], ...] = (
    *(problems, speed, quality, gates, shapes, errors, latency, memory, load, capacity, origins),
)


def render(pages: Pages) -> str:
    """HTML that needs no other file; the same for the same inputs.

    Raises:
        EnvironmentProblem: jinja2 is missing.
    """
    made = [section for make in _ORDER if (section := make(pages))]
    style = (_TEMPLATES / "style.css").read_text("utf-8")
    text: str = (
        _environment()
        .get_template("page.html")
        .render(
            title=title(pages),
            verdict=verdict(pages),
            sections=made,
            style=style,
            counts=_counts(pages),
        )
    )
    return text


def _counts(pages: Pages) -> str:
    """What the page is made from, in words."""
    runs, models = len(pages.results), len(pages.models)
    told = [f"{runs} measurement{'s' * (runs != 1)}"] if runs else []
    told += [f"{models} model{'s' * (models != 1)}"] if models else []
    versions = sorted({str(x["slimgpt_version"]) for x in pages.results})
    return ", ".join(told) + (f"; measured by slimgpt {', '.join(versions)}" if versions else "")


@cache
def _environment() -> Any:
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    except ImportError:
        raise missing_extra("slimgpt report", "bench") from None
    return Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
