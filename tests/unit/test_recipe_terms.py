"""Errors that reach a user of recipes name keys of the recipe."""

import pytest

from slimgpt.compress.recipe_terms import SectionName, in_recipe_terms, with_keys
from slimgpt.errors import GateMissed, UsageError


@pytest.mark.parametrize(
    ("section", "message", "expected"),
    [
        (
            "recover",
            "--data has 3 examples: raise --max-length",
            "recover.data has 3 examples: raise recover.max_length",
        ),
        (
            "prune",
            "lower --samples or --sequence-length",
            "lower prune.samples or prune.sequence_length",
        ),
        ("prune", "--batch-size 3 and --fresh", "--batch-size 3 and --fresh"),
        ("recover", "--batch-size 3 and --fresh", "recover.batch_size 3 and --fresh"),
        (
            "evaluate",
            "--text a.txt is shorter than --window",
            "evaluate.texts a.txt is shorter than evaluate.texts.window",
        ),
        ("evaluate", "--task-data has no --tasks", "evaluate.task_data has no evaluate.tasks"),
        ("evaluate", "--dtype float32, --device cpu", "--dtype float32, --device cpu"),
        (
            "exports",
            "--scheme w4a16: give --group-size 32, or slimgpt prune --align 64 and "
            "--tensor-parallel 2",
            "exports.scheme w4a16: give exports.group_size 32, or prune.align 64 and "
            "exports.tensor_parallel 2",
        ),
        ("exports", "give --pad, or lower --samples", "give exports.pad, or lower prune.samples"),
        ("exports", "slimgpt prune --uniform", "prune.uniform"),
        ("recover", "/tmp/--data/x is no file", "/tmp/--data/x is no file"),
    ],
)
def test_flags_become_keys_of_the_section(
    section: SectionName, message: str, expected: str
) -> None:
    assert with_keys(message, section) == expected


def test_an_error_keeps_its_kind_its_exit_code_and_its_numbers() -> None:
    with (
        pytest.raises(GateMissed, match=r"a lower recover\.learning_rate") as raised,
        in_recipe_terms("recover"),
    ):
        raise GateMissed("give a lower --learning-rate", measured=2.0, limit=1.0)
    assert (raised.value.measured, raised.value.limit) == (2.0, 1.0)


def test_an_error_within_two_sections_has_the_terms_of_the_inner_one() -> None:
    with (
        pytest.raises(UsageError, match=r"^recover\.data, --samples$"),
        in_recipe_terms("evaluate"),
        in_recipe_terms("recover"),
    ):
        raise UsageError("--data, --samples")
