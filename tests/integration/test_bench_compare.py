"""``slimgpt bench compare`` with real processes: a known slowdown comes back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from slimgpt.calibration import load_calibration
from slimgpt.demo import CALIBRATION
from slimgpt.errors import EnvironmentProblem, Unresolved, UsageError
from slimgpt.progress import Silent
from slimgpt.prune.driver import prune
from slimgpt.prune.options import PruneOptions
from slimgpt_bench.compare import job
from slimgpt_bench.compare.decision import decide
from slimgpt_bench.compare.gate import measure
from slimgpt_bench.compare.job import CompareOptions, Comparison, compare
from slimgpt_bench.compare.page import page
from slimgpt_bench.latency import Cell, LatencyOptions
from slimgpt_bench.results import read, save
from tests.command_line import Desk
from tests.known_engine import FILE, NAME, environment
from tests.onnx_exports import Exports
from tests.tiny_models import Tiny

CELL = Cell(2, 6, 4)


@pytest.fixture(autouse=True)
def _known_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", environment()["PYTHONPATH"])


@pytest.fixture(scope="module")
def half(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small model with one of its two layers."""
    out = tmp_path_factory.mktemp("half") / "half"
    prune(
        small,
        out,
        PruneOptions(0.5, "depth", device="cpu"),
        lambda c: load_calibration(c, [str(CALIBRATION)], samples=4, sequence_length=32, seed=0),
    )
    return out


def known(model: Path, place: Path, **times: Any) -> Path:
    """A checkpoint that is timed as sleeps of known length."""
    shutil.copytree(model, place)
    (place / FILE).write_text(json.dumps(times))
    return place


def compared(dense: Path, out: Path, **changed: Any) -> Comparison:
    runs = LatencyOptions(NAME, (CELL,), trials=2, warmup=0, device="cpu")
    given = {"rounds": 3, "roofline": False, "memory": False} | changed
    return compare(dense, out, CompareOptions(runs, **given), Silent())


@pytest.fixture(scope="module")
def pair(small: Path, half: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A dense model whose every time is 1.5 times the other's."""
    root = tmp_path_factory.mktemp("known")
    return (
        known(small, root / "dense", prefill_s=0.09, step_s=0.045),
        known(half, root / "half", prefill_s=0.06, step_s=0.03),
    )


def test_a_known_slowdown_is_recovered(pair: tuple[Path, Path], record_property: Any) -> None:
    found = compared(*pair, by_depth=True, memory=True, roofline=True).document
    assert found["valid"], found["problems"]
    for name in ("prefill_s", "ttft_s", "tpot_s", "e2e_s"):
        low, high = found[name]["interval"]
        # A sleep ends a little late, which takes a little off both sides of the ratio.
        assert low - 0.05 <= 1.5 <= high + 0.1, (name, low, high)
        assert found[name]["verdict"] == "faster"
        record_property("measured", f"{name}: 1.5 -> {found[name]['ratio']:.4f}")
        third = found[name]["third"]
        assert third["ratio"] == pytest.approx(1.0, abs=0.05)
        assert third["pruned_against_third"]["verdict"] == "faster"
    decide(found, speedup=1.3, quantity="tpot_s")
    made = found["third"]["made"]
    assert len(made["dropped_layers"]) == 1
    assert made["decoder_parameters"] == made["decoder_parameters_of_pruned"]
    assert found["protocol"]["order"] == ["dense", "pruned", "third", "third", "pruned", "dense"]
    assert found["memory"]["weights"]["ratio"]["file_bytes"] < 1
    assert found["predicted"]["cells"][0]["tpot_s"]["predicted"] > 1
    assert len(found["predicted"]["layers"]) == 2
    page(found)


def test_the_result_is_saved_and_read_back(pair: tuple[Path, Path], tmp_path: Path) -> None:
    found = compared(*pair, rounds=1)
    save(tmp_path / "run", found.document, found.records())
    again = read(tmp_path / "run")
    assert again["tpot_s"] == found.document["tpot_s"]
    lines = (tmp_path / "run" / "requests.jsonl").read_text().splitlines()
    assert len(lines) == 4 * 2
    with pytest.raises(Unresolved, match=r"give more --rounds \(3 at least\)"):
        decide(found.document)
    with pytest.raises(UsageError, match="is a saved result, and two of them are not one"):
        compared(tmp_path / "run", pair[1])


def test_an_engine_that_runs_differently_ends_the_experiment_at_once(
    pair: tuple[Path, Path], half: Path, tmp_path: Path
) -> None:
    other = known(half, tmp_path / "other", settings={"threads": 3})
    with pytest.raises(Unresolved, match="other can't be compared: threads is 3, and was 1"):
        compared(pair[0], other, rounds=50)


def test_trials_that_fail_make_the_comparison_invalid(
    pair: tuple[Path, Path], half: Path, tmp_path: Path
) -> None:
    broken = known(half, tmp_path / "broken", fault="nan")
    found = compared(pair[0], broken, rounds=1).document
    assert not found["valid"]
    assert found["problems"][0].startswith(
        "broken, --batch 2 --prompt 6 --output 4: 4 of 4 trials failed: logits not finite"
    )
    assert found["tpot_s"]["ratio"] == "insufficient"
    with pytest.raises(Unresolved, match="4 of 4 trials failed"):
        decide(found)


def test_times_are_kept_where_what_stands_beside_them_can_not_be_had(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise EnvironmentProblem("the memory is not enough")

    monkeypatch.setattr(job, "compare_memory", full)
    monkeypatch.setattr(job, "predict", full)
    found = compared(*pair, rounds=1, memory=True, roofline=True).document
    assert found["valid"]
    assert found["e2e_s"]["ratio"] == pytest.approx(1.5, abs=0.1)
    assert (found["memory"], found["predicted"]) == ({}, None)
    assert [x for x in found["problems"] if "left out" in x] == [
        "memory is left out: the memory is not enough",
        "the roofline is left out: the memory is not enough",
    ]
    page(found)


def test_a_model_against_itself_is_said_to_be(pair: tuple[Path, Path]) -> None:
    found = compared(pair[1], pair[1]).document
    assert found["valid"]
    assert any("DENSE and OUT are the same model" in text for text in found["problems"])
    assert found["e2e_s"]["ratio"] == pytest.approx(1.0, abs=0.03)
    assert found["e2e_s"]["verdict"] != "faster" or found["e2e_s"]["interval"][0] < 1.02


def test_a_gate_gets_the_interval_and_the_reason_where_there_is_none(
    pair: tuple[Path, Path], half: Path, tmp_path: Path
) -> None:
    gate = {"at_least": 1.2, "quantity": "tpot_s", "engine": NAME, "batch": 1, "prompt": 4}
    gate |= {"output": 3, "rounds": 3, "trials": 2}
    how: dict[str, Any] = {"device": "cpu", "dtype": "auto", "seed": 0, "progress": Silent()}
    told = measure(*pair, gate, **how)
    assert told["gate"] == gate
    assert told["verdict"] == "faster"
    assert told["interval"][0] <= told["ratio"] <= told["interval"][1]
    assert told["ratio"] == pytest.approx(1.5, abs=0.1)
    broken = known(half, tmp_path / "broken", fault="nan")
    why = measure(pair[0], broken, gate | {"rounds": 1}, **how)["why"]
    assert "trials failed: logits not finite" in why


def test_onnx_exports_are_compared(tiny: Tiny, tmp_path: Path) -> None:
    exports = Exports(tmp_path)
    dense = tiny.dense("llama-mha").path
    first, second = (exports.make(x).out for x in (dense, tiny.pruned(dense, 0.5)))
    runs = LatencyOptions("auto", (CELL, Cell(1, 8, 2)), trials=3, device="cpu", threads=1)
    found = compare(first, second, CompareOptions(runs), Silent()).document
    assert found["engine"] == "onnx"
    assert [cell["batch"] for cell in found["cells"]] == [2, 1]
    assert found["pruned"]["form"] == "onnx"
    assert found["memory"]["kv"]["ratio"]["bytes_per_token"] < 1
    assert found["predicted"]["cells"][0]["prefill_s"]["predicted"] > 1
    assert found["predicted"]["measured_widths"] == []
    assert {found[name]["verdict"] for name in ("ttft_s", "tpot_s", "e2e_s")} <= {
        *("faster", "slower", "no difference", "unresolved")
    }
    with pytest.raises(UsageError, match="--depth needs checkpoints, and DENSE is an ONNX export"):
        compare(first, second, CompareOptions(runs, by_depth=True), Silent())
    with pytest.raises(Unresolved, match="form is checkpoint and onnx"):
        compare(dense, second, CompareOptions(runs), Silent())


# -- the command -----------------------------------------------------------------------------------


def refused(desk: Desk, code: int, *says: str, options: tuple[str, ...] = ()) -> None:
    given = ["bench", "compare", str(desk.model), str(desk.root / "other"), *options]
    desk.refuses(given, code, *says)


@pytest.fixture
def other(desk: Desk) -> Path:
    """A second model on the desk."""
    return Path(shutil.copytree(desk.model, desk.root / "other"))


def test_different_tokenizers_are_refused(desk: Desk, other: Path) -> None:
    path = other / "tokenizer.json"
    path.write_text(path.read_text() + " ")
    refused(desk, 3, "model and other can't be compared: tokenizer is", "made from DENSE")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--rounds", "0"), ("--rounds 0: give 1 or more",)),
        (("--require-speedup", "0"), ("--require-speedup 0: give a ratio above 0",)),
        (("--depth", "--third", "{model}"), ("--third and --depth are both a third model",)),
        (("--require-speedup", "1", "--rounds", "2"), ("--rounds 2 gives none: give 3",)),
        (("--quantity", "ttft_s"), ("--quantity says what --require-speedup is about",)),
        (("--trials", "0"), ("--trials 0: give 1 or more",)),
        (("--batch", "0"), ("--batch 0",)),
        (("--batch", "two"), ("--batch two: give whole numbers",)),
        (("--prompt", "250", "--output", "7"), ("--prompt 250 and --output 7", "256")),
        (("--engine", "onnx"), ("--engine onnx", "is a checkpoint")),
        (("--save", "{model}"), ("--save", "exists")),
        (("--depth", "--prompt", "8"), ("--depth: OUT is 0 decoder parameters smaller",)),
    ],
)
@pytest.mark.usefixtures("other")
def test_what_can_not_be_measured_is_refused_before_anything_runs(
    desk: Desk, options: tuple[str, ...], says: tuple[str, ...]
) -> None:
    refused(desk, 2, *says, options=tuple(desk.fill(options)))
