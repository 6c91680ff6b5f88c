"""`slimgpt bench latency` with real engines: transformers and ONNX Runtime."""

from __future__ import annotations

import json
import shutil
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch

from slimgpt.cli import run
from slimgpt.errors import EnvironmentProblem, IntegrityError
from slimgpt.loading import load_model
from slimgpt_bench.artefact import describe
from slimgpt_bench.decoders import Decoder, Length, OnnxDecoder, TorchDecoder
from slimgpt_bench.latency.cells import Cell, LatencyOptions
from slimgpt_bench.latency.measuring import run_cell
from slimgpt_bench.latency.onnx_engine import OnnxEngine
from slimgpt_bench.latency.process import Worker
from slimgpt_bench.latency.transformers_engine import TransformersEngine
from slimgpt_bench.latency.trials import Trials
from slimgpt_bench.results import read
from slimgpt_serve.preflight.machine import free_memory_bytes
from tests.command_line import ENVIRONMENT, INTEGRITY, USAGE, Ended
from tests.onnx_exports import Exports
from tests.onnx_serving import export_small, say_portable, spoil_position
from tests.tiny_models import random_ids

UNRESOLVED = 3
VALID = (0, UNRESOLVED)
"""A machine that does something else may not be steady: the document says so, and is whole."""
SMALL = ("--prompt", "8", "--output", "4", "--runs", "3", "--trials", "4", "--warmup", "1")
HAS_GPU = Path("/dev/nvidiactl").exists()


@pytest.fixture(scope="session")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small model as an ONNX export; to be copied, not changed."""
    return export_small(tmp_path_factory.mktemp("latency"))


@pytest.fixture(scope="session")
def in_transformers(small: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ended]:
    """What was kept, and how the command ended, of the small model in transformers."""
    folder = tmp_path_factory.mktemp("kept")
    arguments = command(small, "--batch", "1,2", "--json", "--quiet", "--save", folder / "kept")
    # Not the executable: five workers import transformers, and that is enough.
    with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as err:
        code = run(arguments)
    return folder / "kept", Ended(code, out.getvalue(), err.getvalue())


def command(model: Path, *options: str | Path) -> list[str]:
    return [str(x) for x in ("bench", "latency", model, *SMALL, *options)]


def document(ended: Ended) -> dict[str, Any]:
    assert ended.code in VALID, ended.stderr
    found: dict[str, Any] = json.loads(ended.stdout)
    assert found["valid"] == (ended.code == 0)
    of_cells = [text for cell in found["cells"] for text in cell["problems"]]
    notes = found["problems"][len(of_cells) :]
    assert found["problems"][: len(of_cells)] == of_cells
    # A busy machine may cut a warm-up off: that is told, and no fault of the times.
    assert all("the warm-up ended before its trials agreed" in text for text in notes)
    return found


# -- engines choose the tokens that the model chooses ---------------------------------------------


def chosen(decoder: Decoder, prompts: list[list[int]], tokens: int) -> list[list[int]]:
    """Greedy tokens (sequences, tokens)."""
    decoder.prepare(Length(len(prompts[0]), tokens), len(prompts))
    for _ in range(2):  # a second trial finds nothing of the first
        decoder.begin()
        found = [decoder.choose(decoder.prefill(prompts))]
        for _ in range(tokens - 1):
            found.append(decoder.choose(decoder.step(found[-1])))
    return [list(map(int, row)) for row in zip(*found, strict=True)]


@torch.no_grad()
def greedy(model: Any, prompts: list[list[int]], tokens: int) -> list[list[int]]:
    """Likewise, without a cache."""
    texts = torch.tensor(prompts)
    for _ in range(tokens):
        step = model(texts, use_cache=False).logits[:, -1].argmax(-1)
        texts = torch.cat([texts, step[:, None]], dim=1)
    found: list[list[int]] = texts[:, -tokens:].tolist()
    return found


@pytest.mark.parametrize("case", ["llama-mha", "qwen3", "mistral-window"])
@pytest.mark.parametrize("batch", [1, 3])
def test_what_is_timed_is_the_model(tiny, tmp_path, case, batch):
    path = tiny.pruned(tiny.dense(case).path)
    prompts = random_ids(batch, 9).tolist()
    expected = greedy(load_model(path, device="cpu", dtype="float32")[0], prompts, 6)
    in_torch = TorchDecoder(path, device="cpu", dtype="float32", compiled=False)
    assert chosen(in_torch, prompts, 6) == expected
    if case != "mistral-window":
        exported = OnnxDecoder(Exports(tmp_path).make(path).out, device="cpu", threads=1)
        assert chosen(exported, prompts, 6) == expected


# 2026-11-22: torch 2.13.0's own code for compiling uses what it has deprecated.
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
@pytest.mark.slow
def test_a_compiled_model_is_the_model(tiny):
    path = tiny.pruned(tiny.dense("llama-mha").path)
    prompts = random_ids(2, 9).tolist()
    compiled = TorchDecoder(path, device="cpu", dtype="float32", compiled=True)
    expected = greedy(load_model(path, device="cpu", dtype="float32")[0], prompts, 4)
    assert chosen(compiled, prompts, 4) == expected


# -- documents ------------------------------------------------------------------------------------


def test_a_checkpoint_is_measured_in_transformers(small, in_transformers):
    kept, ended = in_transformers
    found = document(ended)
    assert (found["kind"], found["engine"]) == ("latency", "transformers")
    assert [x["batch"] for x in found["cells"]] == [1, 2]
    for cell in found["cells"]:
        assert cell["requests"] == {
            "sent": 12 * cell["batch"],
            "ok": 12 * cell["batch"],
            "failed": {},
        }
        order = [cell[x]["median"] for x in ("tpot_s", "prefill_s", "ttft_s", "e2e_s")]
        assert order[1:] == sorted(order[1:])
        assert min(order) > 0
        assert cell["itl_s"]["n"] == 3 * 4 * 3
        low, high = cell["e2e_s"]["interval"]
        assert low <= cell["e2e_s"]["median"] <= high
    assert found["ttft_s"] == found["cells"][0]["ttft_s"]
    assert found["artefact"]["digest"] == describe(small).digest
    assert found["settings"]["clock"] == "perf_counter"
    # What is kept is what was printed, with every trial.
    assert {**read(kept), "files": None} == {**found, "files": None}
    raw = [json.loads(x) for x in (kept / "requests.jsonl").read_text().splitlines()]
    assert len(raw) == 2 * 3 * 4
    assert all(len(x["token_s"]) == 4 for x in raw)


def test_an_export_is_measured_in_onnx_runtime_on_the_same_workload(desk, export, in_transformers):
    shutil.copytree(export, desk.out)
    found = document(desk.run(command(desk.out, "--batch", "1,2", "--json", "--quiet")))
    assert found["engine"] == "onnx"
    assert found["settings"]["provider"] == "CPUExecutionProvider"
    assert found["settings"]["arena"].startswith("on")
    assert [x["requests"]["ok"] for x in found["cells"]] == [12, 24]
    kv = found["memory"]["kv"]
    assert kv["measured_bytes_per_token"] == kv["bytes_per_token"]
    process = found["memory"]["process"]
    bare = process["without_arena"]
    assert 0 < bare["anonymous_bytes"] <= bare["pss_bytes"] <= bare["high_water_bytes"]
    weights = found["memory"]["weights"]
    assert describe(export).shape.weight_bytes(4) < weights["resident_bytes"]
    assert weights["resident_bytes"] < process["anonymous_bytes"]
    assert found["workload"] == document(in_transformers[1])["workload"]


def test_memory_has_five_kinds_that_are_not_mixed(small, in_transformers):
    shape = describe(small).shape
    memory = document(in_transformers[1])["memory"]
    assert list(memory) == ["weights", "kv", "allocator", "device", "process"]
    assert memory["weights"]["file_bytes"] == (small / "model.safetensors").stat().st_size
    exact = shape.weight_bytes(4)
    assert exact <= memory["weights"]["resident_bytes"] < exact + 4096  # rotary buffers
    kv = memory["kv"]
    assert kv["bytes_per_token"] == kv["measured_bytes_per_token"] == shape.kv_bytes_per_token(4)
    assert kv["token_capacity_source"].startswith("modelled")
    assert memory["allocator"]["peak_allocated_bytes"] is None
    assert "GPUs alone" in memory["allocator"]["reason"]
    assert memory["device"]["used_bytes"] is None
    process = memory["process"]
    assert memory["weights"]["resident_bytes"] < process["anonymous_bytes"]
    assert process["anonymous_bytes"] <= process["pss_bytes"] <= process["high_water_bytes"]
    assert 0 < process["baseline_anonymous_bytes"] < process["baseline_bytes"]
    assert process["high_water_since"] == "loading"


def test_buffers_that_do_not_fit_are_refused_in_the_commands_own_options(export):
    cell = Cell(2**16, 100, 156)
    engine = OnnxEngine(export, LatencyOptions("onnx", (cell,)))
    needed = engine._decoder.session.artefact.kv_bytes(cell.context, cell.batch)
    if (free_memory_bytes() or needed) >= needed:
        pytest.skip("so large a machine holds them")
    with pytest.raises(EnvironmentProblem, match="are free: give a smaller --batch, --prompt or"):
        engine.prepare(cell)


@pytest.mark.parametrize("arena", [True, False])
def test_the_arena_is_as_asked(export, arena):
    cell = Cell(1, 8, 2)
    options = LatencyOptions("onnx", (cell,), trials=1, warmup=0, arena=arena)
    engine = OnnxEngine(export, options)
    session = engine._decoder.session._session
    assert session.get_session_options().enable_cpu_mem_arena is arena
    assert engine.describe()["arena"].startswith("on" if arena else "off")
    assert engine.memory()["allocator"]["arena"] == engine.describe()["arena"]
    assert run_cell(engine, cell, options, describe(export).shape.vocab_size).failed == {}


def test_people_get_a_row_a_cell_and_the_memory(desk, export):
    shutil.copytree(export, desk.out)
    ended = desk.run(command(desk.out, "--batch", "1,2", "--quiet"))
    assert ended.code in VALID
    lines = ended.stdout.splitlines()
    assert lines[0].split()[:3] == ["batch", "prompt", "output"]
    assert [x.split()[:3] for x in lines[1:3]] == [["1", "8", "4"], ["2", "8", "4"]]
    for kind in ("weights", "kv cache", "process"):
        assert any(x.startswith(kind) for x in lines)
    assert "without ONNX Runtime's arena" in ended.stdout
    assert "3 runs of 4 trials" in ended.stdout


def test_two_runs_are_measured_and_said_to_be_too_few(desk, export):
    shutil.copytree(export, desk.out)
    ended = desk.run([*command(desk.out, "--json", "--quiet"), "--runs", "2"])
    assert ended.code == UNRESOLVED
    assert json.loads(ended.stdout)["valid"] is False
    assert "an interval needs 3 runs, and 2 gave times: give --runs 3 or more" in ended.stderr


# -- logits that are no numbers -------------------------------------------------------------------


def test_a_checkpoint_whose_logits_are_infinite_is_not_timed(desk):
    desk.edit_weights(lambda w: w["model.norm.weight"].fill_(3e38))
    found = in_this_process(desk.model, Cell(2, 8, 4))
    assert (found.times, found.failed) == ((), {"logits not finite": 5})


def in_this_process(model: Path, cell: Cell) -> Trials:
    """In transformers; a worker would take seconds to import it again."""
    options = LatencyOptions("transformers", (cell,), trials=5, device="cpu")
    vocabulary = describe(model).shape.vocab_size
    return run_cell(TransformersEngine(model, options), cell, options, vocabulary)


def test_an_export_that_gives_nan_late_is_no_measurement(desk, export):
    """At the last position: prompt and first steps are good."""
    spoil_position(export, desk.out, 10)
    ended = desk.run([*command(desk.out, "--json", "--quiet"), "--runs", "1"])
    assert ended.code == UNRESOLVED, ended.stderr
    found = json.loads(ended.stdout)
    assert found["requests"] == {"sent": 4, "ok": 0, "failed": {"logits not finite": 4}}
    assert (found["valid"], found["e2e_s"]["median"]) == (False, "insufficient")
    assert "4 of 4 failed" in ended.stderr
    good = Cell(2, 8, 3)
    with Worker(desk.out, LatencyOptions("onnx", (good,), trials=2)) as worker:
        assert (worker.measure(good).sent, worker.measure(good).failed) == (4, {})


# -- mistakes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (["--prompt", "250", "--output", "10"], USAGE, "come to 260 tokens, and model takes 256"),
        (["--engine", "onnx"], USAGE, "is a checkpoint: make an ONNX export of it with slimgpt"),
        (["--batch", "0"], USAGE, "--batch 0: give 1 or more"),
        (["--batch", "1,x"], USAGE, "--batch 1,x: give whole numbers with commas between"),
        (["--output", "0"], USAGE, "--output 0: give 1 or more"),
        (["--runs", "0"], USAGE, "--runs 0: give 1 or more"),
        (
            ["--preset", "paper"],
            USAGE,
            "--preset paper decides --prompt, --output, --runs, --trials",
        ),
        (["--device", "gpu"], USAGE, "--device gpu: give auto, cpu, cuda"),
        (["--save", "{model}"], USAGE, "--save {model} exists"),
        pytest.param(
            ["--device", "cuda"],
            ENVIRONMENT,
            "--device cuda: torch sees 0 GPUs",
            marks=pytest.mark.skipif(HAS_GPU, reason="there is a GPU"),
        ),
    ],
)
def test_mistakes_are_refused_before_anything_is_measured(desk, options, code, says):
    filled = desk.fill(options)
    desk.refuses(command(desk.model, *filled), code, says.format(model=desk.model))


def test_the_papers_preset_is_refused_by_a_short_context(desk):
    arguments = ["bench", "latency", str(desk.model), "--preset", "paper"]
    desk.refuses(arguments, USAGE, "--preset paper comes to 520 tokens, and model takes 256")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--engine", "transformers"], "is an ONNX export: give the checkpoint"),
        (["--compile"], "--compile and --eager are for --engine transformers and vllm"),
        (["--dtype", "float16"], "--dtype float16 can't be had of an ONNX export"),
    ],
)
def test_what_an_export_can_not_do_is_refused(desk, export, options, says):
    shutil.copytree(export, desk.out)
    desk.refuses([*command(desk.out, *options), "--quiet"], USAGE, says)


def test_a_portable_export_runs_one_sequence_at_a_time(desk, export):
    say_portable(export, desk.out)
    options = [*command(desk.out, "--batch", "2"), "--quiet"]
    desk.refuses(options, USAGE, "--batch 2: a portable export runs one sequence at a time")


def test_something_that_is_no_model_is_refused(desk):
    desk.refuses(command(desk.root), USAGE, "has no config.json")


def test_a_damaged_model_is_refused(desk):
    weights = desk.model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    desk.refuses(command(desk.model), INTEGRITY, "model.safetensors")


def test_weights_that_are_no_numbers_are_refused(desk):
    desk.edit_weights(lambda w: w["model.norm.weight"].fill_(float("nan")))
    with pytest.raises(IntegrityError, match="holds NaN or infinite values"):
        in_this_process(desk.model, Cell(1, 8, 2))


def test_vllm_that_is_missing_is_named_with_its_extra(desk, monkeypatch):
    monkeypatch.setattr("slimgpt_bench.latency.job.installed_vllm", lambda: None)
    says = "--engine vllm needs an optional package"
    desk.refuses(command(desk.model, "--engine", "vllm"), ENVIRONMENT, says, "slimgpt[vllm]")
