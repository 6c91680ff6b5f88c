"""The verbs as a user types them, on the embedded model; the errors are in test_bad_*.py."""

import hashlib
import importlib
import json
import os
import pty
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from slimgpt.checkpoint.reader import Checkpoint
from slimgpt.cli import SUMMARIES, VERBS, run
from slimgpt.demo import CALIBRATION, MODEL
from tests.command_line import EXECUTABLE, LAYERS, Desk


@dataclass(frozen=True)
class PruneRun:
    """What the executable left behind when its errors went to a terminal."""

    out: Path
    stdout: str
    terminal: str
    log: list[dict[str, Any]]


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> PruneRun:
    """The embedded model, pruned by a quarter by the installed executable."""
    root = tmp_path_factory.mktemp("pruned")
    out, log, document = root / "out", root / "log.jsonl", root / "stdout"
    command = [str(x) for x in (EXECUTABLE, "prune", MODEL, out, "--calibration", CALIBRATION)]
    command += ["--ratio", "0.25", "--samples", "16", "--sequence-length", "64"]
    ours, terminal = pty.openpty()
    with document.open("w") as stdout:
        process = subprocess.Popen(
            [*command, "--json", "--log-file", str(log)], stdout=stdout, stderr=terminal
        )
        os.close(terminal)
        shown = _drain(ours)
    assert process.wait() == 0, shown
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    return PruneRun(out, document.read_text(), shown, lines)


def _drain(terminal: int) -> str:
    """All that is written to a pseudo-terminal; on Linux its end is an error."""
    shown = b""
    with os.fdopen(terminal, "rb", buffering=0) as reader:
        while True:
            try:
                piece = reader.read(65_536)
            except OSError:
                piece = b""
            if not piece:
                return shown.decode()
            shown += piece


# -- all verbs -------------------------------------------------------------------------------------


def test_every_verb_is_summarised():
    assert VERBS.keys() == SUMMARIES.keys()


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_exists_and_explains_itself(
    verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    module, _, name = VERBS[verb].partition(":")
    assert getattr(importlib.import_module(module), name).name == verb
    assert run([verb, "--help"]) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith(f"Usage: slimgpt {verb} ")
    assert shown.err == ""


def test_help_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"  {verb} " in shown for verb in VERBS)


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["plan", str(MODEL), "--ratio", "0.25"], ["inspect", str(MODEL)]],
    ids=lambda arguments: arguments[0],
)
def test_what_needs_no_weights_needs_no_torch(arguments: list[str]) -> None:
    script = (
        "import sys; from slimgpt.cli import run; code = run(sys.argv[1:]); "
        "sys.exit(code or 'torch' in sys.modules or 'transformers' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script, *arguments], check=True, capture_output=True)


# -- plan ------------------------------------------------------------------------------------------


def test_plan_tells_programs(desk: Desk) -> None:
    ended = desk.run(["plan", str(MODEL), "--ratio", "0.25", "--samples", "64", "--json"])
    assert (ended.code, ended.stderr) == (0, "")
    document = json.loads(ended.stdout)
    assert document["ratio"]["asked"] == 0.25
    assert abs(document["ratio"]["achieved"] - 0.25) < 0.001
    assert document["dense"]["totals"]["parameters"] == 1_730_176
    layers = document["planned"]["shape"]["layers"]
    assert [layer.keys() for layer in layers] == [{"query_heads", "kv_heads", "ffn"}] * 6
    estimate = document["estimate"]
    assert (estimate["samples"], estimate["sequence_length"]) == (64, 256)
    assert min(estimate["seconds"], estimate["peak_memory_bytes"]) > 0


def test_plan_tells_people(desk: Desk) -> None:
    ended = desk.run(["plan", str(MODEL), "--ratio", "0.25"])
    assert (ended.code, ended.stderr) == (0, "")
    for words in (
        "1,730,176",
        "8 → 7",
        "kv bytes per token",
        "24.99% of the decoder's parameters removed (25.00% asked)",
        "Loads through slimgpt: ",
        "Estimate for 128 x 256 calibration tokens",
    ):
        assert words in ended.stdout
    shown = " ".join(ended.stdout.split())
    assert "import slimgpt for transformers, its plugin for vLLM; slimgpt export stock" in shown


def test_a_uniform_plan_loads_as_a_stock_model(desk: Desk) -> None:
    ended = desk.run(["plan", str(MODEL), "--ratio", "0.25", "--uniform"])
    assert "Loads as a stock mistral model." in " ".join(ended.stdout.split())


# -- prune -----------------------------------------------------------------------------------------


def test_prune_prints_one_document_and_nothing_else(pruned: PruneRun) -> None:
    document = json.loads(pruned.stdout)
    promised = {"out", "ratio", "parameters", "seconds", "peak_rss_bytes"}
    assert document.keys() == promised | {"resumed_layers"}
    assert document["out"] == str(pruned.out)
    assert document["ratio"].keys() == {"asked", "achieved"}
    counts = document["parameters"]
    assert counts.keys() == {"before", "after", "decoder_before", "decoder_after"}
    stored = sum(t.numel() for _, t in Checkpoint(pruned.out).stored())
    assert (counts["before"], counts["after"]) == (1_730_176, stored)
    achieved = 1 - counts["decoder_after"] / counts["decoder_before"]
    assert document["ratio"]["achieved"] == pytest.approx(achieved)
    assert document["seconds"] > 0
    assert document["peak_rss_bytes"] > 2**20


def test_progress_goes_to_the_terminal_with_stage_count_and_time_left(pruned: PruneRun) -> None:
    for words in ("checking weights", "pruning layers", "writing checkpoint", "6/6", "0:00:00"):
        assert words in pruned.terminal


def test_the_log_has_one_line_a_layer(pruned: PruneRun) -> None:
    layers = [line for line in pruned.log if line["event"] == "layer"]
    assert [line["layer"] for line in layers] == list(range(6))
    for line in layers:
        assert line["seconds"] > 0
        assert line["peak_rss_bytes"] > 2**20
        for step in filter(None, (line["attention"], line["mlp"])):
            assert 0 < step["compensated"] < step["truncated"] < 1
            assert step["damping"] == 0.01
    assert layers[-1]["attention"]
    stages = [line["stage"] for line in pruned.log if line["event"] == "stage done"]
    assert stages == ["checking weights", "pruning layers", "writing checkpoint"]


def test_the_manifest_tells_what_was_done_and_is_true(pruned: PruneRun) -> None:
    manifest = json.loads((pruned.out / "slimgpt.json").read_text())
    promised = "schema slimgpt_version source recipe shape parameters quality environment files"
    assert list(manifest) == promised.split()
    assert manifest["source"].keys() == {"name", "digest", "shape"}
    assert manifest["source"]["shape"] == Checkpoint(MODEL).shape.to_manifest()
    layers = manifest["shape"]["layers"]
    assert layers == Checkpoint(pruned.out).shape.to_manifest()["layers"]
    assert manifest["parameters"] == json.loads(pruned.stdout)["parameters"]
    present = {p.name: p for p in pruned.out.iterdir() if p.name != "slimgpt.json"}
    assert manifest["files"] == {
        name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in present.items()
    }


def test_nothing_is_left_beside_the_result(pruned: PruneRun) -> None:
    assert {p.name for p in pruned.out.parent.iterdir()} == {"out", "log.jsonl", "stdout"}


def test_quiet_says_nothing_even_to_a_terminal(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes this for a terminal
    ended = desk.run(desk.prune("--quiet"))
    assert (ended.code, ended.stderr) == (0, "")
    assert "parameters became" in ended.stdout


def test_pruning_nothing_reads_no_calibration(desk: Desk) -> None:
    ended = desk.run(desk.prune("--ratio", "0", "--calibration", "no-such-file"))
    assert ended.code == 0
    stored = dict(Checkpoint(desk.out).stored())
    assert all(t.equal(stored[n]) for n, t in Checkpoint(desk.model).stored())


def test_sidecars_are_copied_unchanged_and_the_card_steps_aside(desk: Desk) -> None:
    extra = {
        "LICENSE": b"Do what you want.\r\n",
        "chat_template.jinja": b"{{ messages }}",
        "additional_chat_templates/tools.jinja": b"{{ tools }}",
    }
    for name, content in extra.items():
        (desk.model / name).parent.mkdir(exist_ok=True)
        (desk.model / name).write_bytes(content)
    (desk.model / ".cache").mkdir()
    (desk.model / ".cache" / "x").write_text("not part of it")
    (desk.model / "pytorch_model.bin").write_bytes(b"not read beside safetensors")
    assert desk.run(desk.prune("--quiet")).code == 0
    for name in (*extra, "tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (desk.out / name).read_bytes() == (desk.model / name).read_bytes(), name
    card = (desk.model / "README.md").read_bytes()
    assert (desk.out / "SOURCE_README.md").read_bytes() == card
    assert b"pruned by" in (desk.out / "README.md").read_bytes()
    assert not (desk.out / ".cache").exists()
    assert not list(desk.out.glob("*.bin"))


def test_a_pruned_model_can_be_pruned_again(desk: Desk) -> None:
    assert desk.run(desk.prune("--quiet")).code == 0
    first = desk.out
    desk.model, desk.out = first, desk.root / "again"
    assert desk.run(desk.prune("--quiet")).code == 0
    counts = json.loads((desk.out / "slimgpt.json").read_text())["parameters"]
    before = json.loads((first / "slimgpt.json").read_text())["parameters"]
    assert counts["before"] == before["after"] > counts["after"]
    # The card to keep is that of the first source.
    name = "SOURCE_README.md"
    assert (desk.out / name).read_bytes() == (first / name).read_bytes()


def test_odd_characters_in_paths_are_printed_as_they_are(desk: Desk) -> None:
    desk.out = desk.root / "[bold] out [/] :smile:"
    ended = desk.run(desk.prune("--quiet"))
    assert ended.code == 0
    assert "[bold] out [/] :smile:" in " ".join(ended.stdout.split())


# -- inspect ---------------------------------------------------------------------------------------


def test_inspect_tells_what_a_dense_model_is(desk: Desk) -> None:
    document = json.loads(desk.run(["inspect", str(desk.model), "--json"]).stdout)
    assert document["model_type"] == "llama"
    assert document["dtype"] == "bfloat16"
    assert document["uniform"]
    assert document["manifest"] is None
    assert len(document["shape"]["layers"]) == LAYERS
    assert document["weight_files"] == ["model.safetensors"]


def test_inspect_tells_how_a_pruned_model_was_made(pruned: PruneRun, desk: Desk) -> None:
    document = json.loads(desk.run(["inspect", str(pruned.out), "--json"]).stdout)
    assert document["model_type"] == "slimgpt_llama"
    assert not document["uniform"]
    assert document["manifest"]["recipe"]["ratio"] == 0.25
    shown = desk.run(["inspect", str(pruned.out)]).stdout
    assert "pruned by slimgpt" in shown
    assert "removed: 24.99% of the decoder's 1,205,760" in shown


# -- generate --------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["dense", "pruned"])
def test_generate_goes_on_from_the_prompt_and_always_the_same(
    pruned: PruneRun, desk: Desk, which: str
) -> None:
    model = str(MODEL if which == "dense" else pruned.out)
    command = ["generate", model, "Once upon a time", "--max-new-tokens", "12"]
    first = desk.run(command)
    assert first.code == 0
    assert first.stdout.startswith("Once upon a time")
    assert len(first.stdout) > len("Once upon a time\n")
    assert "tokens in" in first.stderr
    document = json.loads(desk.run([*command, "--json"]).stdout)
    assert document["prompt"] + document["text"] + "\n" == first.stdout
    assert document["tokens"] <= 12


def test_sampling_follows_the_seed(desk: Desk) -> None:
    command = ["generate", str(MODEL), "Once", "--max-new-tokens", "12", "--temperature", "1", "-q"]
    first, again, other = (desk.run([*command, "--seed", seed]).stdout for seed in ("1", "1", "2"))
    assert first == again != other
    assert desk.run(command[:-3]).stdout != first


def test_generate_keeps_to_its_own_settings(desk: Desk) -> None:
    command = ["generate", str(desk.model), "Once", "--max-new-tokens", "8", "-q"]
    plain = desk.run(command)
    settings = {"do_sample": True, "temperature": 9.0, "num_beams": 3, "max_length": 2}
    (desk.model / "generation_config.json").write_text(json.dumps(settings))
    assert desk.run(command) == plain


def test_a_prompt_of_odd_bytes_is_read(desk: Desk) -> None:
    command = ["generate", str(desk.model), "caf\udce9", "--max-new-tokens", "2", "--json", "-q"]
    assert json.loads(desk.run(command).stdout)["prompt"] == "caf\udce9"


def test_a_reader_that_goes_away_is_no_missed_gate() -> None:
    """Exit code 1 is that a gate was missed; a closed pipe is what shells call 141."""
    process = subprocess.Popen(
        [EXECUTABLE, "plan", str(MODEL), "--ratio", "0.25"], stdout=subprocess.PIPE
    )
    assert process.stdout
    process.stdout.close()
    assert process.wait() == 141
