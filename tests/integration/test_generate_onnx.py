"""`slimgpt generate` of an ONNX export and of the checkpoint that it was made of: the same text."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import pytest

from slimgpt_export.onnx.job import export_onnx
from slimgpt_export.onnx.options import OnnxOptions
from slimgpt_export.onnx.precision import Precision
from slimgpt_serve.onnx_runtime.artefact import read_artefact
from slimgpt_serve.onnx_runtime.generator import generate, runner_of
from slimgpt_serve.onnx_runtime.sampling import SamplingOptions
from slimgpt_serve.onnx_runtime.session import open_session
from slimgpt_serve.onnx_runtime.tokens import load_tokenizer
from tests.command_line import ENVIRONMENT, INTEGRITY, USAGE, Desk, Ended
from tests.onnx_graphs import write_table
from tests.onnx_serving import spoil_position

PROMPT = "Once upon a time, there was a little"
NEW = ("--max-new-tokens", "24")
HAS_GPU = Path("/dev/nvidiactl").exists()


@pytest.fixture(scope="session")
def exported(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small model as an ONNX export; to be copied, not changed."""
    out = tmp_path_factory.mktemp("onnx") / "export"
    export_onnx(small, out, OnnxOptions(Precision("fp32"), device="cpu"))
    return out


@pytest.fixture
def bench(desk: Desk, exported: Path) -> Desk:
    """A desk with both: the checkpoint ``model`` and its export ``out``."""
    shutil.copytree(exported, desk.out)
    return desk


def asked(bench: Desk, engine: str, *options: str, prompt: str = PROMPT) -> list[str]:
    model = bench.out if engine == "onnxruntime" else bench.model
    return ["generate", str(model), prompt, *NEW, *options]


def document(ended: Ended) -> dict[str, Any]:
    assert ended.code == 0, ended.stderr
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


def both(bench: Desk, *options: str) -> list[dict[str, Any]]:
    return [
        document(bench.run(asked(bench, engine, *options, "--json")))
        for engine in ("onnxruntime", "transformers")
    ]


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--repetition-penalty", "1.5"),
        ("--stop", " and"),
        ("--stop", "zzz", "--stop", "e", "--repetition-penalty", "1.2"),
        ("--temperature", "0.7", "--top-k", "1"),
        ("--temperature", "2", "--top-p", "0.000001"),
    ],
    ids=" ".join,
)
def test_both_engines_write_the_same(bench: Desk, options: tuple[str, ...]) -> None:
    ours, theirs = both(bench, *options)
    for found, engine, provider in (
        (ours, "onnxruntime", "CPUExecutionProvider"),
        (theirs, "transformers", "cpu"),
    ):
        assert (found.pop("engine"), found.pop("provider")) == (engine, provider)
        assert found.pop("seconds") > 0
    assert ours == theirs
    assert ours["prompt"] == PROMPT
    assert ours["finish_reason"] == ("stop" if "--stop" in options else "length")
    for given, stop in pairwise(options):
        assert given != "--stop" or stop not in ours["text"]


def test_an_end_token_ends_both(bench: Desk) -> None:
    plain = document(bench.run(asked(bench, "onnxruntime", "--json")))
    end = document(bench.run(asked(bench, "onnxruntime", "--json", *("--max-new-tokens", "4"))))
    assert plain["text"].startswith(end["text"])
    # The fourth token becomes one that ends a text.
    [token] = _tokens(bench, 4)[3:]
    for folder in (bench.model, bench.out):
        path = folder / "generation_config.json"
        path.write_text(json.dumps({"eos_token_id": [2, token]}))
    path = bench.out / "genai_config.json"
    settings = json.loads(path.read_text())
    settings["model"]["eos_token_id"] = [2, token]
    path.write_text(json.dumps(settings))
    ours, theirs = both(bench)
    assert (ours["text"], ours["tokens"]) == (theirs["text"], theirs["tokens"])
    assert (ours["finish_reason"], theirs["finish_reason"]) == ("stop", "stop")
    assert ours["tokens"] <= 4
    assert plain["text"].startswith(ours["text"])


def _tokens(bench: Desk, count: int) -> list[int]:
    """The first tokens that the export generates."""
    tokenizer = load_tokenizer(bench.out)
    session = open_session(read_artefact(bench.out), device="cpu", threads=1)
    prompts = [tokenizer.encode(PROMPT)]
    engine = runner_of(session, 64, 1)
    [found] = generate(engine, tokenizer, prompts, SamplingOptions(), max_new_tokens=count)
    return list(found.tokens)


@pytest.mark.parametrize("engine", ["onnxruntime", "transformers"])
def test_text_is_shown_as_it_comes(
    bench: Desk, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[str] = []
    echo = click.echo

    def spy(message: Any = None, **options: Any) -> None:
        if not options.get("err"):
            shown.append(message)
        echo(message, **options)

    monkeypatch.setattr(click, "echo", spy)
    ended = bench.run(asked(bench, engine))
    assert ended.code == 0
    assert "".join(shown) + "\n" == ended.stdout
    assert ended.stdout.startswith(PROMPT)
    assert len([piece for piece in shown if piece]) > 5
    assert f"by {engine} on" in ended.stderr
    monkeypatch.undo()
    whole = document(bench.run(asked(bench, engine, "--json")))
    assert ended.stdout == PROMPT + whole["text"] + "\n"


def test_draws_follow_the_seed(bench: Desk) -> None:
    drawing = ("--temperature", "1.2", "--top-p", "0.9", "-q")
    first, again, other = (
        bench.run(asked(bench, "onnxruntime", *drawing, "--seed", seed)).stdout
        for seed in ("1", "1", "2")
    )
    assert first == again != other


def test_an_export_is_run_without_torch(bench: Desk) -> None:
    code = (
        "import sys; from slimgpt.cli import run; code = run(sys.argv[1:]);"
        "sys.exit(code or bool({'torch', 'transformers'} & set(sys.modules)) * 99)"
    )
    command = asked(bench, "onnxruntime", "--threads", "1", "-q")
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == bench.run(command).stdout


def test_a_text_ends_where_the_context_does(bench: Desk) -> None:
    command = ("--max-new-tokens", "9999", "--json")
    ours, theirs = (
        document(bench.run(asked(bench, engine, *command, prompt="word " * 200)))
        for engine in ("onnxruntime", "transformers")
    )
    prompt = len(load_tokenizer(bench.out).encode("word " * 200))
    assert ours["tokens"] == theirs["tokens"] == 256 - prompt
    assert (ours["text"], ours["finish_reason"]) == (theirs["text"], "length")


@pytest.mark.parametrize("engine", ["onnxruntime", "transformers"])
def test_that_the_context_ended_a_text_is_said(bench: Desk, engine: str) -> None:
    ended = bench.run(asked(bench, engine, "--max-new-tokens", "1000"))
    assert "there the model's context ends" in " ".join(ended.stderr.split())
    assert "ends" not in bench.run(asked(bench, engine)).stderr


# -- refused ---------------------------------------------------------------------------------------

WRONG: dict[str, tuple[str, tuple[str, ...], int, tuple[str, ...]]] = {
    "dtype": (
        "onnxruntime",
        ("--dtype", "float16"),
        USAGE,
        ("--dtype float16", "slimgpt export onnx --precision"),
    ),
    "float32 on a GPU": (
        "onnxruntime",
        ("--device", "cuda"),
        USAGE,
        ("--device cuda", "--precision fp16"),
    ),
    "no device": ("onnxruntime", ("--device", "tpu"), USAGE, ("--device tpu", "auto, cpu, cuda")),
    "threads of torch": (
        "transformers",
        ("--threads", "2"),
        USAGE,
        ("--threads 2 is for ONNX exports", "OMP_NUM_THREADS"),
    ),
    "threads 0": ("onnxruntime", ("--threads", "0"), USAGE, ("'--threads'",)),
    "empty stop": ("onnxruntime", ("--stop", ""), USAGE, ("--stop ''", "at least one")),
    "penalty nan": (
        "transformers",
        ("--repetition-penalty", "nan"),
        USAGE,
        ("--repetition-penalty nan",),
    ),
    "penalty 0": ("onnxruntime", ("--repetition-penalty", "0"), USAGE, ("'--repetition-penalty'",)),
    "top-p 0": ("onnxruntime", ("--top-p", "0"), USAGE, ("'--top-p'",)),
    "top-k negative": ("onnxruntime", ("--top-k", "-1"), USAGE, ("'--top-k'",)),
}


@pytest.mark.parametrize(("engine", "options", "code", "says"), WRONG.values(), ids=WRONG)
def test_a_wrong_option(
    bench: Desk, engine: str, options: tuple[str, ...], code: int, says: tuple[str, ...]
) -> None:
    bench.refuses(asked(bench, engine, *options), code, *says)


def test_a_prompt_beyond_the_context(bench: Desk) -> None:
    command = asked(bench, "onnxruntime", prompt="word " * 300)
    bench.refuses(command, USAGE, "PROMPT has 3", "capacity is 256", "context of 256")


def test_a_tokenizer_of_another_model(bench: Desk) -> None:
    other = write_table(bench.root / "other")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(bench.out / name, other)
    says = "is beyond the model's vocabulary of 8", "need the same tokenizer"
    bench.refuses(["generate", str(other), "Once"], INTEGRITY, *says)


def test_files_that_are_not_whole(bench: Desk) -> None:
    data = bench.out / "model.onnx.data"
    whole = data.read_bytes()
    command = asked(bench, "onnxruntime")
    data.write_bytes(whole[:-4096])
    bench.refuses(command, INTEGRITY, "model.onnx.data is truncated", "copy it again")
    data.unlink()
    bench.refuses(command, INTEGRITY, "lacks model.onnx.data")
    (bench.out / "model.onnx").unlink()
    data.write_bytes(whole)
    bench.refuses(command, INTEGRITY, "has no model.onnx")


def test_weights_that_are_no_numbers(bench: Desk) -> None:
    data = bench.out / "model.onnx.data"
    data.write_bytes(b"\xff" * data.stat().st_size)
    bench.refuses(asked(bench, "onnxruntime"), INTEGRITY, "logits are no numbers")


def test_an_error_within_a_text_stands_on_a_line_of_its_own(bench: Desk) -> None:
    spoiled = spoil_position(bench.out, bench.root / "spoiled", 20)
    ended = bench.run(["generate", str(spoiled), PROMPT, *NEW])
    assert ended.code == INTEGRITY
    assert ended.stdout.startswith(PROMPT)
    assert len(ended.stdout) > len(PROMPT) + 1
    assert ended.stdout.endswith("\n")
    assert ended.stderr.startswith("slimgpt: the model's logits are no numbers")


@pytest.mark.skipif(HAS_GPU, reason="there is a GPU here")
def test_a_gpu_that_is_not_there(bench: Desk) -> None:
    out = bench.root / "half"
    half = Precision("fp16", "float16")
    export_onnx(bench.model, out, OnnxOptions(half, device="cpu"))
    command = ["generate", str(out), PROMPT, *NEW]
    bench.refuses([*command, "--device", "cuda"], ENVIRONMENT, "CUDA 13", "slimgpt[onnx-gpu]")
    assert "by onnxruntime on CPUExecutionProvider" in bench.run(command).stderr
