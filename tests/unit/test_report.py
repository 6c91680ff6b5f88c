"""What is on the page: verdicts, numbers, problems; and what never gets onto one chart."""

from __future__ import annotations

import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from slimgpt.cli import run
from slimgpt.errors import EnvironmentProblem, IntegrityError, UsageError
from slimgpt_bench.report.job import make_report
from slimgpt_bench.report.page import render
from slimgpt_bench.report.runs import gather
from slimgpt_bench.results import save
from tests import result_samples as samples

HOSTILE = "<img src=x onerror=alert(1)>\"'&{{ 7*7 }}</title></style><script>x()</script>"
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


def everything() -> list[Any]:
    return [
        samples.compare(),
        samples.latency(),
        samples.load(),
        samples.load(6.5, samples.artefact()),
        samples.capacity(),
        samples.judged(),
    ]


def test_everything_is_on_one_page_that_needs_nothing_else(tmp_path):
    page = page_of(tmp_path, *everything(), manifests={"pruned": samples.manifest()})
    for title in (
        *("Speed against dense", "Quality and size", "Gates", "Widths of the layers"),
        *("Error by layer", "Latency", "Memory", "Load", "Capacity", "Where this is from"),
    ):
        assert title in page.words
    assert not {"script", "iframe", "img", "object"} & set(page.tags)
    for name, value in page.attributes:
        if name in ("href", "src", "action"):
            assert value is not None
            assert value.startswith(("#", "data:"))
    html = render(gather([tmp_path / "run0"]))
    assert "url(" not in html
    assert "@import" not in html


def test_equal_inputs_give_equal_bytes(tmp_path):
    page_of(tmp_path, *everything())
    paths = [tmp_path / f"run{i}" for i in range(6)]
    assert render(gather(paths)) == render(gather(paths))


def test_the_verdict_is_first_and_has_its_interval(tmp_path):
    page = page_of(tmp_path, samples.compare(1.24))
    found = samples.compare(1.24)["tpot_s"]
    said = f"llama-7b-p25 generates {found['ratio']:.2f} [1.23, 1.25] times as fast as llama-7b"
    assert said in page.words
    assert page.words.index(said) < page.words.index("Intervals are 95 %")
    assert "24.0 % fewer parameters" in page.words
    assert "at a perplexity of 7.05 against 5.68 on wikitext2" in page.words


@pytest.mark.parametrize(
    ("speed", "runs", "said"),
    [
        (0.8, 6, "llama-7b-p25 is slower than llama-7b"),
        (1.0, 6, "llama-7b-p25 generates as fast as llama-7b"),
        (1.2, 2, "Whether llama-7b-p25 generates faster than llama-7b can't be told"),
    ],
)
def test_other_verdicts_are_told_as_plainly(tmp_path, speed, runs, said):
    assert said in page_of(tmp_path, samples.compare(speed, runs)).words


def test_a_comparison_that_is_not_valid_has_no_verdict(tmp_path):
    document = samples.compare(valid=False, problems=["the machine was busy"])
    page = page_of(tmp_path, document)
    assert "The comparison of llama-7b-p25 with llama-7b is not valid." in page.words
    assert "Run 1, compare, is not valid: the machine was busy" in page.words
    assert "times as fast as llama-7b" not in page.words


def test_problems_of_levels_and_failures_are_shown(tmp_path):
    document, requests = samples.load()
    document["levels"][3] |= {
        "valid": False,
        "problems": ["the client was saturated"],
        "requests": {"sent": 320, "ok": 300, "failed": {"http_5xx": 20}},
    }
    page = page_of(tmp_path, (document, requests))
    assert "the client was saturated" in page.words
    assert "300 of 320 20 http_5xx" in page.words
    assert "not valid" in page.words


def test_a_speed_without_a_quality_says_that_it_has_none(tmp_path):
    pruned = samples.artefact("bare", 0.75, quality={"layers": samples.layer_errors()})
    page = page_of(tmp_path, samples.compare(pruned=pruned, artefact=pruned))
    assert "its quality was not measured" in page.words
    assert "not measured" in page.words


def test_too_few_samples_are_printed_as_such(tmp_path):
    document = samples.latency(cells=[samples.cell(1, 128, 128, runs=2)])
    page = page_of(tmp_path, document)
    assert "insufficient" in page.words.replace("“insufficient”", "")


def test_runs_of_other_workloads_tokenizers_or_engines_are_drawn_apart(tmp_path):
    other = samples.artefact("other", tokenizer_digest=samples.digest("another"))
    documents = [
        samples.load(),
        samples.load(6.5, samples.artefact()),
        samples.load(7, other),
        samples.load(5, samples.artefact("moved"), workload={"digest": samples.digest("w")}),
    ]
    page = page_of(tmp_path, *documents)
    charts = [
        v for k, v in page.attributes if k == "aria-labelledby" and v and "load-" in v and " " in v
    ]
    assert {re.findall(r"load-\d", c)[0] for c in charts} == {"load-0", "load-1", "load-2"}
    names = [t.strip() for t in page.text]
    assert "llama-7b-p25, llama-7b" in names
    assert {"other", "moved"} <= set(names)


def test_latencies_of_another_engine_are_drawn_apart(tmp_path):
    page = page_of(tmp_path, samples.latency(), samples.latency(engine="onnx"))
    charts = {
        v
        for k, v in page.attributes
        if k == "aria-labelledby" and v and "latency-" in v and " " in v
    }
    assert len(charts) == 4


def test_sections_without_data_are_left_out(tmp_path):
    page = page_of(tmp_path, manifests={"alone": samples.manifest()})
    assert "Widths of the layers" in page.words
    for title in ("Latency", "Load", "Capacity", "Memory", "Speed against dense"):
        assert title not in page.words


def test_hostile_names_stay_text(tmp_path):
    artefact = samples.artefact(HOSTILE, 0.75, dtype=HOSTILE)
    document = samples.latency(
        artefact=artefact, problems=[HOSTILE], engine=HOSTILE, command=[HOSTILE]
    )
    load, requests = samples.load(model=artefact, target={"url": HOSTILE, "server": {}})
    manifest = samples.manifest()
    manifest["gates"][0]["name"] = HOSTILE
    manifest["quality"]["texts"][0]["text"] = HOSTILE
    page = page_of(tmp_path, document, (load, requests), manifests={"bad": manifest})
    assert not {"script", "img"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert page.tags.count("style") == 1
    assert page.tags.count("title") == 1 + page.tags.count("desc")
    assert "{{ 7*7 }}" in page.words


def test_every_chart_has_a_name_a_description_and_its_numbers_in_a_table(tmp_path):
    page = page_of(tmp_path, *everything())
    drawings = [v for k, v in page.attributes if k == "aria-labelledby" and v and v.endswith("-d")]
    ids = [v for k, v in page.attributes if k == "id"]
    assert len(ids) == len(set(ids))
    assert drawings
    for names in drawings:
        assert set(names.split()) <= set(ids)
    assert page.tags.count("figure") == len(drawings)
    assert page.tags.count("table") >= 15


def test_a_result_that_is_given_twice_counts_once(tmp_path):
    save(tmp_path / "a", samples.compare())
    save(tmp_path / "b", samples.compare())
    assert len(gather([tmp_path / "a", tmp_path / "b"]).results) == 1


def test_models_of_one_name_are_told_apart(tmp_path):
    one, other = samples.manifest(), samples.manifest(0.5)
    for i, manifest in enumerate((one, other)):
        (tmp_path / str(i) / "same").mkdir(parents=True)
        (tmp_path / str(i) / "same" / "slimgpt.json").write_text(json.dumps(manifest))
    names = [x.name for x in gather([tmp_path / "0" / "same", tmp_path / "1" / "same"]).models]
    assert len(set(names)) == 2
    assert all(re.fullmatch(r"same \([0-9a-f]{8}\)", name) for name in names)


def test_a_manifest_alone_may_be_named(tmp_path):
    (tmp_path / "slimgpt.json").write_text(json.dumps(samples.manifest()))
    [model] = gather([tmp_path / "slimgpt.json"]).models
    assert model.name == tmp_path.name


@pytest.mark.parametrize(
    "change",
    [
        {"shape": None},
        {"shape": {"layers": [{"query_heads": "many"}]}},
        {"parameters": {"before": 1, "after": -1}},
        {"quality": {"layers": [7]}},
        {"quality": {"texts": {"a": 1}}},
        {"gates": ["x"]},
    ],
    ids=str,
)
def test_a_manifest_that_is_none_is_damaged(tmp_path, change):
    (tmp_path / "slimgpt.json").write_text(json.dumps(samples.manifest() | change))
    with pytest.raises(IntegrityError, match=r"slimgpt\.json is no manifest of slimgpt"):
        gather([tmp_path])


def test_a_model_that_can_not_be_is_damage_too(tmp_path):
    artefact = samples.artefact(shape={"layers": "all"})
    save(tmp_path / "run", samples.latency(artefact=artefact))
    with pytest.raises(IntegrityError, match="a result tells of a model that can't be"):
        gather([tmp_path / "run"])


def test_a_folder_of_neither_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"holds neither result\.json nor slimgpt\.json: give"):
        gather([tmp_path])


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("there.html", "there.html exists: give --overwrite, or another file"),
        ("folder", "folder is a directory: give a file"),
        ("there.html/page", "can't be made: .*there.html is a file"),
    ],
)
def test_where_a_page_can_not_go(tmp_path, name, said):
    (tmp_path / "there.html").write_text("mine")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UsageError, match=said):
        make_report([tmp_path / "run"], tmp_path / name)
    assert (tmp_path / "there.html").read_text() == "mine"


def test_jinja2_may_be_missing(tmp_path, monkeypatch):
    from slimgpt_bench.report import page

    save(tmp_path / "run", samples.compare())
    page._environment.cache_clear()
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(EnvironmentProblem, match=r"slimgpt report needs .*slimgpt\[bench\]"):
        make_report([tmp_path / "run"], tmp_path / "page.html")
    page._environment.cache_clear()


def test_the_command_writes_the_page_and_says_what_is_on_it(tmp_path, capsys):
    save(tmp_path / "run", samples.compare(valid=False, problems=["busy"]))
    to = tmp_path / "new" / "page.html"
    assert run(["report", str(tmp_path / "run"), "--to", str(to), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == {
        "file": str(to),
        "bytes": to.stat().st_size,
        "results": {"compare": 1},
        "models": ["llama-7b", "llama-7b-p25"],
        "invalid": 1,
    }
    assert run(["report", str(tmp_path / "run"), "--to", str(to)]) == 2
    assert run(["report", str(tmp_path / "run"), "--to", str(to), "--overwrite"]) == 0
    assert "1 not valid and marked so" in capsys.readouterr().out.replace("\n", " ")
