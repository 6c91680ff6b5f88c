"""Options of a recovery: the paper's by default, and refused where they make no training."""

import subprocess
import sys
from math import inf, nan
from typing import Any

import pytest

from slimgpt.errors import UsageError
from slimgpt.recover.options import RecoverOptions

PAPER = {
    "rank": 8,
    "alpha": 16.0,
    "dropout": 0.05,
    "learning_rate": 1e-4,
    "schedule": "cosine",
    "warmup_steps": 10,
    "batch_size": 64,
    "max_length": 256,
    "epochs": 1.0,
    "held_out": 2000,
    "prompt": "alpaca",
    "distill_weight": 0.0,
}

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"rank": 0}, "--rank 0: give at least 1"),
    ({"rank": -8}, "--rank -8: give at least 1"),
    ({"batch_size": 0}, "--batch-size 0: give at least 1"),
    ({"micro_batch": -1}, "--micro-batch -1: give at least 1"),
    ({"held_out": 0}, "--held-out 0: give at least 1"),
    ({"evaluations": 0}, "--evaluations 0: give at least 1"),
    ({"max_length": 1}, "--max-length 1: give at least 2 tokens"),
    ({"warmup_steps": -1}, "--warmup-steps -1: give 0 or more"),
    ({"max_steps": 0}, "--max-steps 0: give at least 1"),
    ({"alpha": 0}, "--alpha 0: give a number above 0"),
    ({"alpha": -16.0}, "--alpha -16: give a number above 0"),
    ({"learning_rate": 0.0}, "--learning-rate 0: give a number above 0"),
    ({"learning_rate": nan}, "--learning-rate nan: give a number above 0"),
    ({"epochs": inf}, "--epochs inf: give a number above 0"),
    ({"max_grad_norm": 0.0}, "--max-grad-norm 0: give a number above 0"),
    ({"temperature": -1.0}, "--temperature -1: give a number above 0"),
    ({"dropout": 1.0}, "--dropout 1: give at least 0 and below 1"),
    ({"dropout": nan}, "--dropout nan: give at least 0 and below 1"),
    ({"distill_weight": 1.5}, "--distill-weight 1.5: give 0 to 1"),
    ({"distill_weight": -0.1}, "--distill-weight -0.1: give 0 to 1"),
    ({"weight_decay": 2.0}, "--weight-decay 2: give 0 to 1"),
    ({"schedule": "wavy"}, "--lr-schedule wavy: give one of cosine, linear, constant"),
    ({"prompt": "vicuna"}, "--prompt vicuna: give one of alpaca, chat, none"),
    (
        {"batch_size": 20, "micro_batch": 8},
        "--batch-size 20 is no multiple of --micro-batch 8: every step adds up whole micro-batches",
    ),
]


def test_the_defaults_are_the_papers():
    options = RecoverOptions()
    assert {name: getattr(options, name) for name in PAPER} == PAPER


@pytest.mark.parametrize(("given", "says"), REFUSED, ids=lambda x: x if isinstance(x, str) else "")
def test_values_that_make_no_training_are_refused_in_the_flags_name(given, says):
    with pytest.raises(UsageError) as refused:
        RecoverOptions(**given)
    assert str(refused.value) == says


@pytest.mark.parametrize(
    ("batch", "micro", "at_once", "accumulated"),
    [(64, 16, 16, 4), (16, 16, 16, 1), (8, 16, 8, 1), (6, 3, 3, 2)],
)
def test_a_batch_is_a_number_of_whole_micro_batches(batch, micro, at_once, accumulated):
    options = RecoverOptions(batch_size=batch, micro_batch=micro)
    assert (options.examples_at_once, options.accumulation) == (at_once, accumulated)


@pytest.mark.parametrize(
    ("examples", "given", "steps"),
    [
        (640, {}, 10),
        (641, {}, 11),  # the last batch of an epoch is short
        (1, {}, 1),
        (640, {"epochs": 2.0}, 20),
        (641, {"epochs": 0.5}, 6),
        (640, {"epochs": 0.001}, 1),
        (640, {"epochs": 5.0, "max_steps": 7}, 7),
        (10, {"max_steps": 70}, 70),
    ],
)
def test_the_number_of_steps_follows_from_the_examples(examples, given, steps):
    assert RecoverOptions(**given).steps(examples) == steps


def test_the_recipe_names_what_decides_the_bytes_and_nothing_else():
    recipe = RecoverOptions().recipe()
    for other in ({"fresh": True}, {"device": "cpu"}, {"gradient_checkpointing": True}):
        assert RecoverOptions(**other).recipe() == recipe
    different: list[dict[str, Any]] = [
        {"rank": 4},
        {"seed": 1},
        {"micro_batch": 8},
        {"dtype": "bfloat16"},
    ]
    for changed in different:
        assert RecoverOptions(**changed).recipe() != recipe
    # Above the batch size, a larger micro-batch changes nothing.
    small = RecoverOptions(batch_size=8, micro_batch=8)
    assert RecoverOptions(batch_size=8, micro_batch=16).recipe() == small.recipe()


def test_help_needs_no_torch():
    code = (
        "import sys\nfrom slimgpt.cli import run\n"
        "assert run(['recover', '--help']) == 0\n"
        "assert not {'torch', 'transformers', 'peft'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for option in PAPER:
        flag = {"schedule": "lr-schedule"}.get(option, option.replace("_", "-"))
        assert f"--{flag}" in done.stdout
