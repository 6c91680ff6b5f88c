"""A recipe's speed gate: measured once, in every report, and never in the bytes of a release."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Self

import pytest

from slimgpt_bench.compare import experiment
from slimgpt_bench.compare import gate as bench_gate
from slimgpt_bench.latency import Cell, LatencyOptions, Trials, worker
from tests.command_line import USAGE, Desk
from tests.integration.test_compress import GATE, MET, compress, write_recipe

SPEED = {"at_least": 1.1, "prompt": 8, "output": 4, "rounds": 3, "trials": 2}
Stand = Callable[..., list[int]]


def asked(desk: Desk, **speed: Any) -> Path:
    gates = MET | {"speedup": SPEED | speed}
    return write_recipe(desk, gates=gates, recover=None)


@pytest.fixture
def stands(monkeypatch: pytest.MonkeyPatch) -> Stand:
    """Puts a measurement of known outcome where minutes of processes would be; counts its calls."""

    def put(low: float, high: float, **more: Any) -> list[int]:
        calls: list[int] = []

        def measure(dense: Path, candidate: Path, gate: Mapping[str, Any], **_: Any) -> Any:
            calls.append(len(calls))
            ratio = (low * high) ** 0.5 + 1e-6 * len(calls)
            return {"gate": dict(gate), "ratio": ratio, "interval": [low, high], **more}

        monkeypatch.setattr(bench_gate, "measure", measure)
        return calls

    return put


def report(desk: Desk) -> Any:
    return json.loads((desk.root / "out.report" / "report.json").read_text())


def test_a_gate_that_is_met_releases_and_is_told_everywhere(desk: Desk, stands: Stand) -> None:
    stands(1.15, 1.3)
    asked(desk)
    done = desk.run(compress(desk, "--json"))
    assert done.code == 0, done.stderr
    (gate,) = (x for x in json.loads(done.stdout)["gates"] if x["name"] == "speedup")
    assert (gate["measured"], gate["passed"]) == (1.15, True)
    assert report(desk)["speed"]["interval"] == [1.15, 1.3]
    assert "speed" in [x["stage"] for x in report(desk)["stages"]]
    junit = (desk.root / "out.report" / "junit.xml").read_text()
    assert 'name="speedup"' in junit
    manifest = json.loads((desk.out / "slimgpt.json").read_text())
    (told,) = (x for x in manifest["gates"] if x["name"] == "speedup")
    assert (told["measured"], told["margin"], told["passed"]) == (None, None, True)
    assert "1.15" not in (desk.out / "README.md").read_text()
    verified = desk.run(["verify", str(desk.out), "--quick", "--source", str(desk.model)])
    assert verified.code == 0, verified.stdout + verified.stderr


def test_other_times_give_the_same_bytes(desk: Desk, stands: Stand) -> None:
    found = []
    for low in (1.15, 1.9):
        stands(low, 2.0)
        asked(desk)
        assert desk.run(compress(desk)).code == 0
        found.append({p.name: p.read_bytes() for p in desk.out.iterdir()})
        desk.out.rename(desk.root / f"out-{low}")
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("low", "high", "more", "says"),
    [
        (1.05, 1.3, {}, "speedup: measured 1.05 times, limit at least 1.1"),
        (0.9, 1.4, {}, "speedup: measured 0.9 times, limit at least 1.1"),
        (1.2, 1.3, {"interval": None}, "speedup: not measured, limit at least 1.1: the ratio has"),
        (1.2, 1.3, {"why": "p can't be compared: x is 1"}, "not measured, limit at least 1.1: p"),
    ],
)
def test_a_gate_that_is_missed_or_unresolved_releases_nothing(
    desk: Desk, stands: Stand, low: float, high: float, more: dict[str, Any], says: str
) -> None:
    stands(low, high, **more)
    asked(desk)
    done = desk.run(compress(desk))
    assert done.code == GATE
    assert says in " ".join(done.stderr.split())
    assert not desk.out.exists()


def test_an_easier_gate_is_measured_anew_and_another_one_takes_the_record(
    desk: Desk, stands: Stand
) -> None:
    calls = stands(1.05, 1.3)
    asked(desk)
    assert desk.run(compress(desk)).code == GATE
    asked(desk)
    assert desk.run(compress(desk)).code == GATE
    assert len(calls) == 1, "the same gate on the same weights is not measured twice"
    asked(desk, at_least=1.0)
    assert desk.run(compress(desk)).code == 0
    assert len(calls) == 2


def test_a_dry_run_has_the_stage_and_refuses_what_does_not_fit(desk: Desk, stands: Stand) -> None:
    calls = stands(1.0, 1.0)
    asked(desk)
    done = desk.run(compress(desk, "--dry-run", "--json"))
    assert done.code == 0, done.stderr
    told = json.loads(done.stdout)
    (cost,) = (x for x in told["costs"] if x["stage"] == "speed")
    assert cost["seconds"] > 0
    assert cost["basis"] == "12 processes with 5 answers of 4 tokens each"
    assert "speedup" not in [x["name"] for x in told["gates"]]
    asked(desk, prompt=250, output=7)
    desk.refuses(
        compress(desk), USAGE, "gates.speedup.prompt 250 and gates.speedup.output 7 come to 257"
    )
    assert not calls


def test_without_the_gate_nothing_is_timed(desk: Desk, stands: Stand) -> None:
    calls = stands(1.0, 1.0)
    write_recipe(desk, recover=None)
    assert desk.run(compress(desk)).code == 0
    assert not calls
    assert report(desk)["speed"] is None


def test_what_could_not_be_measured_is_measured_by_the_next_run(desk: Desk, stands: Stand) -> None:
    asked(desk)
    for failing in ({"why": "--batch 1: 2 of 2 trials failed"}, {"interval": None}):
        stands(1.2, 1.3, **failing)
        done = desk.run(compress(desk))
        assert done.code == GATE
        assert ("gates.speedup.batch 1: 2 of 2" in done.stderr) == ("why" in failing)
    stands(1.2, 1.3)
    assert desk.run(compress(desk)).code == 0
    (stage,) = (x for x in report(desk)["stages"] if x["stage"] == "speed")
    assert not stage["reused"]


class _Here:
    """A worker's work in this process: starting twelve of them with torch takes minutes."""

    loaded: ClassVar[list[str]] = []

    def __init__(
        self, directory: Path, options: LatencyOptions, *, vocabulary: int, **_: Any
    ) -> None:
        self.loaded.append(directory.name)
        self._job = worker.Job(str(directory), vocabulary, json.loads(json.dumps(asdict(options))))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def describe(self) -> dict[str, Any]:
        return self._job.describe()

    def measure(self, cell: Cell) -> Trials:
        return Trials.from_json(json.loads(json.dumps(self._job.measure(cell.to_json()))))


def test_both_models_are_really_run(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiment, "Worker", _Here)
    monkeypatch.setattr(_Here, "loaded", [])
    asked(desk, at_least=0.001, trials=1)
    done = desk.run(compress(desk, "--json"))
    assert done.code == 0, done.stderr
    assert _Here.loaded == ["model", "pruned", "pruned", "model"] * 3
    told = report(desk)["speed"]
    low, high = told["interval"]
    assert 0 < low <= told["ratio"] <= high
    assert told["settings"]["engine"] == "transformers"
    assert told["dense_digest"] != told["pruned_digest"]
