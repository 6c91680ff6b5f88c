"""A page as a test reads it: its words, its tags, and whether every tag is closed."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from slimgpt_bench.report.page import render
from slimgpt_bench.report.runs import gather
from slimgpt_bench.results import save

VOID = {"meta", "link", "img", "br", "circle", "line", "path", "rect", "polygon"}


class Reader(HTMLParser):
    """Text of a page, its tags and links, and whether every tag is closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.text: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text.append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


def page_of(folder: Path, *documents: Any, manifests: dict[str, Any] | None = None) -> Reader:
    """The page of some documents and manifests, read."""
    paths = []
    for i, document in enumerate(documents):
        document, requests = document if isinstance(document, tuple) else (document, None)
        save(folder / f"run{i}", document, requests)
        paths.append(folder / f"run{i}")
    for name, manifest in (manifests or {}).items():
        (folder / name).mkdir()
        (folder / name / "slimgpt.json").write_text(json.dumps(manifest))
        paths.append(folder / name)
    found = Reader(render(gather(paths)))
    assert not found.open
    return found
