"""Tasks through lm-eval: prompts are its own, answers those by hand, and nothing is silent."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from slimgpt.errors import EnvironmentProblem, IntegrityError, UsageError
from slimgpt.evaluate.local_tasks import local_task
from slimgpt.evaluate.quiet import quiet
from slimgpt.evaluate.tasks import choose_tasks, evaluate_tasks, load_tasks
from slimgpt.loading import load_model
from slimgpt.progress import Silent
from slimgpt.tokenizer import load_tokenizer

with quiet():
    from slimgpt.evaluate import harness

    from lm_eval.api.task import ConfigurableTask  # isort: skip
    from lm_eval.tasks._yaml_loader import load_yaml  # isort: skip
    import lm_eval  # isort: skip

from tests.asking import (  # noqa: F401 - a fixture, asked for by name
    BLANKS,
    QUESTIONS,
    Loaded,
    Told,
    evaluate,
    rows,
    small_model,
    write,
)

# -- answers ---------------------------------------------------------------------------------------


def by_hand(loaded: Loaded, context: str, target: str) -> float:
    """Log-likelihood of a target behind a context, without lm-eval."""
    model, meta = loaded
    tokenizer = load_tokenizer(meta.directory)
    ids, given = tokenizer(f"{context} {target}")["input_ids"], tokenizer(context)["input_ids"]
    assert ids[: len(given)] == given
    with torch.no_grad():
        logp = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    scored = range(len(given), len(ids))
    return sum(float(logp[i - 1, ids[i]]) for i in scored)


def test_acc_and_acc_norm_are_those_of_log_likelihoods_by_hand(
    loaded: Loaded, tmp_path: Path
) -> None:
    score = evaluate(loaded, write(tmp_path / "mine.jsonl", QUESTIONS), batch_size=3)
    plain, normal = [], []
    for question, choices, label in QUESTIONS:
        context = f"Question: {question}\nAnswer:"
        values = np.array([by_hand(loaded, context, choice) for choice in choices])
        plain.append(float(values.argmax() == label))
        normal.append(float((values / [len(c) for c in choices]).argmax() == label))
    assert score.answers is not None
    assert score.answers_norm is not None
    assert (score.answers.tolist(), score.answers_norm.tolist()) == (plain, normal)
    assert plain != normal
    assert score.acc.value == np.mean(plain)
    assert score.acc.stderr == pytest.approx(np.std(plain, ddof=1) / len(plain) ** 0.5)
    assert score.acc_norm.value == np.mean(normal)
    assert score.acc_norm.stderr == pytest.approx(np.std(normal, ddof=1) / len(normal) ** 0.5)


def test_the_blank_is_scored_by_what_follows_it(loaded: Loaded, tmp_path: Path) -> None:
    score = evaluate(loaded, write(tmp_path / "winogrande.jsonl", BLANKS))
    expected = []
    for question, choices, label in BLANKS:
        before, _, after = question.partition("_")
        values = [by_hand(loaded, before + choice, after.strip()) for choice in choices]
        expected.append(float(np.argmax(values) == label))
    assert score.answers is not None
    assert score.answers_norm is not None
    assert score.answers.tolist() == score.answers_norm.tolist() == expected


def test_the_batch_size_does_not_count(loaded: Loaded, tmp_path: Path) -> None:
    path = write(tmp_path / "mine.jsonl", QUESTIONS)
    one, many = (evaluate(loaded, path, batch_size=size) for size in (1, 32))
    assert one.to_json() == many.to_json()


def test_the_limit_takes_the_first_examples(loaded: Loaded, tmp_path: Path) -> None:
    path = write(tmp_path / "mine.jsonl", QUESTIONS)
    whole, part = evaluate(loaded, path), evaluate(loaded, path, limit=5)
    assert (whole.n, part.n) == (len(QUESTIONS), 5)
    assert whole.answers is not None
    assert part.answers is not None
    assert part.answers.tolist() == whole.answers[:5].tolist()
    alone = evaluate(loaded, path, limit=1)
    assert (alone.acc.stderr, alone.acc_norm.stderr) == (None, None)


def test_the_record_says_how_it_was_asked(loaded: Loaded, tmp_path: Path) -> None:
    record = evaluate(loaded, write(tmp_path / "mine.test.jsonl", QUESTIONS)).to_json()
    assert record["harness"] == f"lm_eval {lm_eval.__version__}"
    assert (record["n"], record["num_fewshot"], record["truncated"]) == (len(QUESTIONS), 0, 0)
    assert record["file"] == "mine.test.jsonl"
    assert record["protocol"].startswith("mine.test.jsonl, generic prompt")


# -- prompts ---------------------------------------------------------------------------------------

FOLDER = Path(lm_eval.__file__).parent / "tasks"
QUESTION, CHOICES = "Which is it?", ["the one", "another one"]
STANDARD: dict[str, tuple[str, dict[str, Any], str]] = {
    "arc_easy": (
        "arc/arc_easy.yaml",
        {
            "question": QUESTION,
            "choices": {"text": CHOICES, "label": ["A", "B"]},
            "answerKey": "B",
        },
        QUESTION,
    ),
    "arc_challenge": (
        "arc/arc_challenge.yaml",
        {
            "question": QUESTION,
            "choices": {"text": CHOICES, "label": ["1", "2"]},
            "answerKey": "2",
        },
        QUESTION,
    ),
    "openbookqa": (
        "openbookqa/openbookqa.yaml",
        {
            "question_stem": QUESTION,
            "choices": {"text": CHOICES, "label": ["A", "B"]},
            "answerKey": "B",
        },
        QUESTION,
    ),
    "piqa": (
        "piqa/piqa.yaml",
        {"goal": QUESTION, "sol1": CHOICES[0], "sol2": CHOICES[1], "label": 1},
        QUESTION,
    ),
    "winogrande": (
        "winogrande/default.yaml",
        {
            "sentence": "See _ , it is.",
            "option1": "the one",
            "option2": "another one",
            "answer": "2",
        },
        "See _ , it is.",
    ),
    "boolq": (
        "super_glue/boolq/default.yaml",
        {"passage": "PASSAGE", "question": "is it so", "label": 1},
        "is it so?",
    ),
    "hellaswag": (
        "hellaswag/hellaswag.yaml",
        {
            "activity_label": "LABEL",
            "ctx_a": "[header] How [title] It is so.",
            "ctx_b": "then it",
            "endings": ["[substeps] is the  one.", "is another [title] one."],
            "label": "1",
        },
        "[header] How [title] It is so. Then it",
    ),
}
MISSING_HERE = {"boolq": "PASSAGE\n", "hellaswag": "LABEL:"}


def requests(task: Any) -> list[tuple[str, str]]:
    with quiet():
        task.set_config("num_fewshot", 0)
        task.build_all_requests()
    return [instance.args for instance in task.instances]


@pytest.mark.parametrize("name", STANDARD)
def test_prompts_are_those_of_lm_evals_own_task(tmp_path: Path, name: str) -> None:
    file, row, question = STANDARD[name]
    choices = row.get("endings") or (["no", "yes"] if name == "boolq" else CHOICES)
    with quiet():
        config = load_yaml(FOLDER / file)
        data = {config.get("test_split") or config["validation_split"]: harness._Rows([row])}
        if process := config.pop("process_docs", None):
            data = {"validation": _Processed(data["validation"], process)}
        config |= {"training_split": None, "custom_dataset": lambda **_: data}
        if config.get("test_split"):
            config["validation_split"] = None
        config.pop("tag", None)
        standard = ConfigurableTask(config=config)
    (tmp_path / f"{name}.jsonl").write_text(
        json.dumps({"question": question, "choices": choices, "label": 1})
    )
    task = local_task(name, tmp_path)
    assert task
    entry = harness.local_entry(task, 0)
    missing = MISSING_HERE.get(name, "")
    theirs = [(context.replace(missing, ""), target) for context, target in requests(standard)]
    assert requests(entry.tasks[0]) == theirs


class _Processed(harness._Rows):
    """Rows that ``map`` changed, as process_docs of lm-eval's HellaSwag asks for it."""

    def __init__(self, data: Any, process: Any) -> None:
        mapped: list[dict[str, Any]] = []

        class Mappable:
            def map(self, change: Any) -> None:
                mapped.extend(row | change(row) for row in data)

        process(Mappable())
        super().__init__(mapped)


def test_worked_examples_are_others_than_the_asked_one(tmp_path: Path) -> None:
    twice = [*QUESTIONS, QUESTIONS[0]]  # the same question again is no example for it either
    task = local_task(str(write(tmp_path / "mine.jsonl", twice)), None)
    assert task
    entry = harness.local_entry(task, len(QUESTIONS) - 1)
    made = entry.tasks[0]
    made.set_fewshot_seed(0)
    with quiet():
        made.build_all_requests()
    seen = set()
    for instance in made.instances:
        context, _ = instance.args
        *examples, asked = context.split("\n\n")
        assert asked == f"Question: {twice[instance.doc_id][0]}\nAnswer:"
        assert len(examples) == len(QUESTIONS) - 1
        assert not any(example.startswith(asked) for example in examples)
        assert all(example.split("Answer: ")[1] for example in examples)
        seen.add(tuple(examples))
    assert len(seen) > 1
    assert "7 examples of the same file in front" in entry.protocol


def test_the_seed_chooses_the_worked_examples(loaded: Loaded, tmp_path: Path) -> None:
    path = write(tmp_path / "mine.jsonl", QUESTIONS)

    def contexts(seed: int) -> list[str]:
        entries = load_tasks(choose_tasks([str(path)], num_fewshot=2))
        evaluate_tasks(*loaded, entries, seed=seed)
        return [instance.args[0] for instance in entries[0].tasks[0].instances]

    assert contexts(0) == contexts(0)
    assert contexts(0) != contexts(1)


def test_tasks_may_be_asked_again(loaded: Loaded, tmp_path: Path) -> None:
    entries = load_tasks(
        choose_tasks([str(write(tmp_path / "mine.jsonl", QUESTIONS))], num_fewshot=2)
    )
    first, second = (evaluate_tasks(*loaded, entries)["mine"] for _ in range(2))
    assert first.to_json() == second.to_json()


# -- what can't be asked ---------------------------------------------------------------------------


def test_prompts_beyond_the_context_are_counted(loaded: Loaded, tmp_path: Path) -> None:
    long = ("word " * 300, ["a", "b"], 0)
    told = Told()
    path = write(tmp_path / "mine.jsonl", [QUESTIONS[0], long, long])
    score = evaluate(loaded, path, progress=told)
    assert score.truncated == 2
    assert told.messages == [
        "mine: 2 of 3 examples are longer than the model's context of 256 tokens and lost their "
        "beginning"
    ]


def test_a_choice_beyond_the_context_is_scored_by_its_end(loaded: Loaded, tmp_path: Path) -> None:
    long = "word " * 300 + "end"
    path = write(tmp_path / "mine.jsonl", [("Which?", [long, "a"], 1), ("Why?", ["a", long], 0)])
    score = evaluate(loaded, path)
    assert (score.n, score.truncated) == (2, 2)
    entries = load_tasks(choose_tasks([str(path)]))
    evaluate_tasks(*loaded, entries)
    ((value, _),) = entries[0].tasks[0].instances[0].resps
    model, meta = loaded
    ids = load_tokenizer(meta.directory)(f"Question: Which?\nAnswer: {long}")["input_ids"][-257:]
    with torch.no_grad():
        logp = model(input_ids=torch.tensor([ids[:-1]])).logits[0].log_softmax(-1)
    assert value == pytest.approx(float(logp[range(256), ids[1:]].sum()), rel=1e-5)


def test_a_choice_without_a_token_is_refused(loaded: Loaded) -> None:
    tokenizer = load_tokenizer(loaded[1].directory)
    scorer = harness.Scorer(loaded[0], tokenizer, context_length=9, batch_size=1, progress=Silent())
    asked = SimpleNamespace(task_name="file:mine", doc_id=3)
    with pytest.raises(UsageError, match="--tasks mine, example 3: a choice adds no token"):
        scorer._fitted(asked, [1, 2], [])


def test_a_model_that_predicts_nan_has_no_score(small: Path, tmp_path: Path) -> None:
    model, meta = load_model(small, device="cpu")
    model.model.norm.weight.data.fill_(float("nan"))
    with pytest.raises(IntegrityError, match="the predictions are no numbers"):
        evaluate((model, meta), write(tmp_path / "mine.jsonl", QUESTIONS))


def test_a_tokenizer_larger_than_the_model_is_refused(small: Path, tmp_path: Path) -> None:
    model, meta = load_model(small, device="cpu")
    model.resize_token_embeddings(300)
    with pytest.raises(IntegrityError, match=r"--tasks mine, example 0: token id .* of 300"):
        evaluate((model, meta), write(tmp_path / "mine.jsonl", QUESTIONS))


def test_a_tokenizer_that_lm_eval_does_not_take(loaded: Loaded) -> None:
    with pytest.raises(UsageError, match="can't use the tokenizer class object"):
        harness.Scorer(loaded[0], object(), context_length=9, batch_size=1, progress=Silent())


@pytest.mark.parametrize("failure", [MemoryError(), RuntimeError("CUDA out of memory. Tried")])
def test_too_little_memory_says_what_to_lower(
    loaded: Loaded, tmp_path: Path, failure: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forward(*_: Any, **__: Any) -> None:
        raise failure

    monkeypatch.setattr(loaded[0], "forward", forward)
    with pytest.raises(EnvironmentProblem, match="with --batch-size 7: give a smaller one"):
        evaluate(loaded, write(tmp_path / "mine.jsonl", QUESTIONS), batch_size=7)


@pytest.mark.parametrize(
    ("tokens", "shots", "says"),
    [
        ([], None, "--tasks has an empty name"),
        (["a", ""], None, "--tasks has an empty name"),
        (["{root}/mine.jsonl"], -1, "--num-fewshot -1: give 0 or more"),
        (["{root}/mine.jsonl"], 8, "--num-fewshot 8 needs more than the 8 questions of mine"),
        (["{root}/mine.jsonl", "{root}/b/mine.test.jsonl"], 0, "--tasks names mine twice"),
    ],
)
def test_a_choice_of_tasks_that_is_none(
    tmp_path: Path, tokens: list[str], shots: int | None, says: str
) -> None:
    (tmp_path / "b").mkdir()
    write(tmp_path / "mine.jsonl", QUESTIONS)
    write(tmp_path / "b" / "mine.test.jsonl", QUESTIONS)
    with pytest.raises(UsageError, match=says):
        choose_tasks([token.format(root=tmp_path) for token in tokens], num_fewshot=shots)


def test_a_missing_lm_eval_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(EnvironmentProblem, match=r"--tasks needs .* 'slimgpt\[eval\]'"):
        choose_tasks([str(write(tmp_path / "mine.jsonl", QUESTIONS))])


def test_a_damaged_lm_eval_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = choose_tasks([str(write(tmp_path / "mine.jsonl", QUESTIONS))])
    monkeypatch.setitem(sys.modules, "slimgpt.evaluate.harness", None)
    monkeypatch.delattr("slimgpt.evaluate.harness")
    with pytest.raises(EnvironmentProblem, match=r"--tasks needs .* 'slimgpt\[eval\]'"):
        load_tasks(chosen)
