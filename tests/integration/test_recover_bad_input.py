"""A recovery that cannot be begun: one line, the right exit code, nothing left behind."""

from __future__ import annotations

import json
import resource
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from slimgpt.demo import CALIBRATION
from slimgpt.errors import EnvironmentProblem, UsageError
from slimgpt.recover import driver
from slimgpt.recover.driver import recover
from slimgpt.recover.options import RecoverOptions
from tests.command_line import ENVIRONMENT, INTEGRITY, USAGE, Desk
from tests.spoiling import Spoil, a_folder, chain, config, cut, holding, value, without
from tests.tiny_models import LENGTH, Tiny, write_rows

GATE = 1
ROWS = str(CALIBRATION)
NO_TEXT = "has no text: a row needs text, input_ids, or instruction, input and output"


def command(desk: Desk, *options: str, data: str = ROWS) -> list[str]:
    """A quick recovery; what is given twice counts as given last."""
    quick = ["--max-steps", "2", "--batch-size", "4", "--micro-batch", "4", "--max-length", "48"]
    quick += ["--warmup-steps", "0", "--held-out", "4", "--evaluations", "1", "--device", "cpu"]
    given = ["recover", "{model}", "{out}", "--data", data, *quick, *options]
    return desk.fill(given)


def alpaca(desk: Desk, *rows: Any, name: str = "data.json") -> str:
    path = desk.root / name
    path.write_text(json.dumps(list(rows)))
    return str(path)


ROW = {"instruction": "Say it.", "input": "", "output": "There it is."}

# -- options --------------------------------------------------------------------------------------

OPTIONS: list[tuple[list[str], tuple[str, ...]]] = [
    (["--rank", "-1"], ("--rank -1: give at least 1",)),
    (["--rank", "x"], ("--rank", "x")),
    (["--batch-size", "6"], ("--batch-size 6 is no multiple of --micro-batch 4",)),
    (["--max-length", "1"], ("--max-length 1: give at least 2 tokens",)),
    (
        ["--max-length", "257"],
        ("--max-length 257 is beyond the model's context: give at most 256 tokens",),
    ),
    (["--learning-rate", "nan"], ("--learning-rate nan: give a number above 0",)),
    (["--dropout", "1"], ("--dropout 1: give at least 0 and below 1",)),
    (["--lr-schedule", "wavy"], ("--lr-schedule", "wavy")),
    (["--prompt", "vicuna"], ("--prompt", "vicuna")),
    (["--seed", "-1"], ("--seed", "-1")),
    (["--distill-weight", "0.5"], ("--distill DENSE and a --distill-weight above 0 go together",)),
    (["--distill", "{model}", "--distill-weight", "0"], ("go together: give both",)),
    (["--distill", "{model}", "--distill-weight", "2"], ("--distill-weight 2: give 0 to 1",)),
    (["--device", "gpu"], ("--device gpu: give auto, cpu, cuda",)),
]


@pytest.mark.parametrize(("options", "says"), OPTIONS, ids=lambda x: " ".join(x))
def test_options_that_make_no_recovery(
    desk: Desk, options: list[str], says: tuple[str, ...]
) -> None:
    desk.refuses(command(desk, *options), USAGE, *says)


def test_no_data_is_no_recovery(desk: Desk) -> None:
    desk.refuses(["recover", str(desk.model), str(desk.out)], USAGE, "--data")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there(desk: Desk) -> None:
    desk.refuses(command(desk, "--device", "cuda"), ENVIRONMENT, "--device cuda: torch sees 0 GPUs")


def test_training_runs_on_the_first_gpu_and_not_in_float16(monkeypatch: pytest.MonkeyPatch) -> None:
    def on(device: str, stored: str, dtype: str = "auto") -> str:
        monkeypatch.setattr(driver, "resolve_device", torch.device)
        return driver._training_dtype(RecoverOptions(device=device, dtype=dtype), stored)

    assert [on("cpu", x) for x in ("float32", "float16", "bfloat16")] == ["float32"] * 3
    assert on("cuda", "float32") == "float32"
    assert on("cuda:0", "float16") == on("cuda", "bfloat16") == "bfloat16"
    assert on("cuda", "bfloat16", "float32") == "float32"
    says = "--device cuda:1: training runs on the first GPU.*CUDA_VISIBLE_DEVICES=1"
    with pytest.raises(EnvironmentProblem, match=says):
        on("cuda:1", "float32")


def test_peft_is_an_extra(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    says = "slimgpt recover needs an optional package", "pip install 'slimgpt[recover]'"
    desk.refuses(command(desk), ENVIRONMENT, *says)


# -- data -----------------------------------------------------------------------------------------

DATA: dict[str, tuple[str, str | None, tuple[str, ...]]] = {
    "missing": ("gone.json", None, ("--data", "gone.json is no file: give text as .txt")),
    "empty": ("x.txt", "", ("--data", "x.txt is empty: give a file with text")),
    "no list": ("x.json", "{}", ("x.json holds no list of rows",)),
    "no JSON": ("x.json", "[{]", ("x.json is no valid JSON",)),
    "no field": ("x.json", json.dumps([ROW, {"answer": "42"}]), ("row 2", NO_TEXT)),
    "too few": (
        "x.json",
        json.dumps([ROW | {"output": str(i)} for i in range(9)]),
        ("--data has 9 different usable examples, too few to hold any out: give at least 10",),
    ),
    "no room for answers": (
        "x.json",
        json.dumps([ROW | {"instruction": "Say it. " * i} for i in range(99, 120)]),
        ("--data has 0 different usable examples", "or raise --max-length"),
    ),
    "no answers": ("x.json", json.dumps([ROW | {"output": ""}] * 40), ("--data has 0 different",)),
    "a word": ("x.txt", "word", ("--data has 1 different usable examples",)),
}


@pytest.mark.parametrize(("name", "content", "says"), DATA.values(), ids=DATA)
def test_data_that_is_none(
    desk: Desk, name: str, content: str | None, says: tuple[str, ...]
) -> None:
    path = desk.root / name
    if content is not None:
        path.write_text(content)
    desk.refuses(command(desk, "--max-length", "96", data=str(path)), USAGE, *says)


def test_one_bad_file_among_good_ones(desk: Desk) -> None:
    desk.refuses(command(desk, "--data", "gone.txt"), USAGE, "--data gone.txt is no file")


def test_ids_of_another_tokenizer(desk: Desk) -> None:
    data = alpaca(desk, *({"input_ids": [5, 6, i]} for i in range(4080, 4100)))
    desk.refuses(command(desk, data=data), INTEGRITY, "--data: token id 4096 is beyond")


def test_a_chat_prompt_without_a_template(desk: Desk) -> None:
    data = alpaca(desk, *[ROW] * 20)
    desk.refuses(
        command(desk, "--prompt", "chat", data=data), USAGE, "the model has no chat template"
    )


# -- the model ------------------------------------------------------------------------------------

MODELS: dict[str, tuple[Spoil, int, tuple[str, ...]]] = {
    "no config": (a_folder("config.json"), INTEGRITY, ("config.json",)),
    "another architecture": (config(model_type="gpt2"), USAGE, ("gpt2",)),
    "half the weights": (
        cut("model.safetensors", 900_000),
        INTEGRITY,
        ("model.safetensors is truncated or damaged",),
    ),
    "NaN": (
        value("model.layers.1.mlp.up_proj.weight", torch.nan),
        INTEGRITY,
        ("model.layers.1.mlp.up_proj.weight holds NaN or infinite values",),
    ),
    "wrong widths": (config(intermediate_size=64), INTEGRITY, ("config.json makes it",)),
    "a foreign manifest": (
        holding("slimgpt.json", b'{"recipe": {}}'),
        INTEGRITY,
        ("slimgpt.json is no manifest of this checkpoint: make it again, or remove that file",),
    ),
    "no manifest at all": (holding("slimgpt.json", b"["), INTEGRITY, ("is not valid JSON",)),
    "no rope": (
        chain(config(rope_parameters={"rope_type": "spiral"}), without("pad_token_id")),
        INTEGRITY,
        ("config.json",),
    ),
}


@pytest.mark.parametrize(("spoil", "code", "says"), MODELS.values(), ids=MODELS)
def test_models_that_cannot_be_trained(
    desk: Desk, spoil: Spoil, code: int, says: tuple[str, ...]
) -> None:
    spoil(desk)
    desk.refuses(command(desk), code, *says)


def test_text_needs_the_models_tokenizer(desk: Desk) -> None:
    (desk.model / "tokenizer.json").unlink()
    data = alpaca(desk, *[ROW] * 20)
    desk.refuses(command(desk, data=data), INTEGRITY, "has no tokenizer")


def test_a_teacher_is_checked_before_anything_is_begun(desk: Desk) -> None:
    teacher = Desk(desk.root, "teacher")
    shutil.copytree(desk.model, teacher.model)
    distilled = command(desk, "--distill", str(teacher.model))
    value("model.norm.weight", torch.inf)(teacher)
    desk.refuses(distilled, INTEGRITY, "model.norm.weight holds NaN or infinite values")
    teacher.edit_config(model_type="gpt2")
    desk.refuses(distilled, USAGE, "gpt2")


def test_a_teacher_of_another_vocabulary(desk: Desk) -> None:
    teacher = Desk(desk.root, "teacher")
    shutil.copytree(desk.model, teacher.model)
    teacher.edit_config(vocab_size=4000)
    name = "model.embed_tokens.weight"
    teacher.edit_weights(lambda weights: weights.update({name: weights[name][:4000].clone()}))
    says = "--distill", "has a vocabulary of 4000,", "one of 4096: distillation needs the same"
    desk.refuses(command(desk, "--distill", str(teacher.model)), USAGE, *says)


def test_a_model_that_only_its_own_code_can_load(tiny: Tiny, tmp_path: Path) -> None:
    rows, model = write_rows(tmp_path / "rows.jsonl"), tiny.dense("baichuan").path
    options = RecoverOptions(max_length=LENGTH, device="cpu")
    with pytest.raises(UsageError, match="convert it first with slimgpt prune --ratio 0"):
        recover(model, tmp_path / "out", [str(rows)], options)


def test_a_model_whose_predictions_are_no_numbers(desk: Desk) -> None:
    """Every weight is finite, and the logits are not."""
    desk.edit_weights(lambda weights: weights["model.norm.weight"].fill_(3e38))
    ended = desk.run(command(desk, "--quiet"))
    assert (ended.code, ended.stdout) == (INTEGRITY, "")
    assert ended.stderr.count("\n") == 1
    assert "the held-out loss of" in ended.stderr
    assert "is no number: check the model" in ended.stderr


# -- where it goes --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("out", "says"),
    [
        ("{model}", "exists: give an OUT that does not"),
        ("{model}/out", "lies inside MODEL"),
        ("{root}/file", "exists"),
        ("{root}/file/out", "can't be made"),
        ("{root}/taken", "exists and is no unfinished run"),
    ],
)
def test_an_out_that_cannot_be_written(desk: Desk, out: str, says: str) -> None:
    (desk.root / "file").touch()
    (desk.root / "taken.partial").mkdir()
    (desk.root / "taken.partial" / "thesis.txt").touch()
    desk.refuses(desk.fill(["recover", "{model}", out, "--data", ROWS]), USAGE, says)


def test_an_out_inside_the_teacher(desk: Desk) -> None:
    shutil.copytree(desk.model, desk.root / "teacher")
    given = ["recover", "{model}", "{root}/teacher/out", "--data", ROWS]
    desk.refuses(desk.fill([*given, "--distill", "{root}/teacher"]), USAGE, "lies inside")


# -- work that ends badly -------------------------------------------------------------------------


def ends_in_one_line(desk: Desk, code: int, says: str, *options: str) -> None:
    for form in ("--quiet", "--json"):
        ended = desk.run(command(desk, *options, form))
        assert (ended.code, ended.stdout) == (code, ""), ended
        lines = [x for x in ended.stderr.splitlines() if x.startswith("slimgpt: ")]
        assert says in lines[0]
        assert len(lines) == 1
        assert form == "--json" or len(ended.stderr.splitlines()) == 1
        assert not desk.out.exists()


def test_a_recovery_that_diverges(desk: Desk) -> None:
    says = "is no number, the training has diverged: nothing is written; give a lower"
    ends_in_one_line(desk, GATE, says, "--learning-rate", "1e35")


def test_a_recovery_that_makes_nothing_better(desk: Desk) -> None:
    says = "recovery made the held-out loss no better ("
    ends_in_one_line(desk, GATE, says, "--learning-rate", "1e-30")


@contextmanager
def largest_file(size_bytes: int) -> Iterator[None]:
    """As on a full disk, writes fail in the middle."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# The record of the run, the best updates, a checkpoint of the training, the merged blocks.
@pytest.mark.parametrize("size_bytes", [100, 100_000, 300_000, 700_000])
def test_a_disk_that_fills_up_costs_the_run_nothing(desk: Desk, size_bytes: int) -> None:
    given = command(desk, "--learning-rate", "5e-3", "--quiet")
    with largest_file(size_bytes):
        ended = desk.run(given)
    assert (ended.code, ended.stdout) == (ENVIRONMENT, "")
    assert ended.stderr.startswith("slimgpt: ")
    assert ended.stderr.count("\n") == 1
    assert not desk.out.exists()
    assert desk.run(given).code == 0
