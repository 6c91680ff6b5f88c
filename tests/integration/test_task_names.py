"""Tasks that are lm-eval's own: groups, few-shot examples, metrics, and what can't be asked."""

from pathlib import Path

import numpy as np
import pytest

from slimgpt.errors import EnvironmentProblem, UsageError
from slimgpt.evaluate.quiet import quiet
from slimgpt.evaluate.tasks import choose_tasks, load_tasks

with quiet():
    from slimgpt.evaluate import harness

    from lm_eval.tasks import TaskManager  # isort: skip

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

DATA = f"""
import datasets

ROWS = {rows(QUESTIONS)!r}

def first(**_):
    return {{"test": datasets.Dataset.from_list(ROWS[:3]), "dev": datasets.Dataset.from_list(ROWS)}}

def second(**_):
    return {{"test": datasets.Dataset.from_list(ROWS[3:]), "dev": datasets.Dataset.from_list(ROWS)}}

def lengthy(**_):
    rows = [ROWS[0], ROWS[1] | {{"question": "word " * 300}}]
    return {{"test": datasets.Dataset.from_list(rows)}}

def alone(**_):
    return {{"test": datasets.Dataset.from_list(ROWS), "dev": datasets.Dataset.from_list(ROWS)}}

def gone(**_):
    raise ConnectionError("no route to the hub")

def failing(doc, results):
    raise KeyError("answers")
"""
CHOICE = """
test_split: test
fewshot_split: dev
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_target: label
doc_to_choice: choices
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
metadata: {version: 3}
"""
GENERATION = """
custom_dataset: !function data.first
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{choices[0]}}"
metadata: {version: 1}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""
TASKS = {
    "mmlu_one": f"{CHOICE}\ncustom_dataset: !function data.first",
    "mmlu_two": f"{CHOICE}\ncustom_dataset: !function data.second",
    "fixed": f"{CHOICE}\ncustom_dataset: !function data.first\nnum_fewshot: 0",
    "away": f"{CHOICE}\ncustom_dataset: !function data.gone",
    "needy": f"{CHOICE}\ncustom_dataset: !function absent.load",
    "unsafe": f"{CHOICE}\ncustom_dataset: !function data.first\nunsafe_code: true",
    "broken": f"{CHOICE}\ncustom_dataset: !function data.first\n"
    "process_results: !function data.failing",
    "only_test": f"{CHOICE}\ncustom_dataset: !function data.alone".replace(
        "fewshot_split: dev", ""
    ),
    "only_dev": f"{CHOICE}\ncustom_dataset: !function data.alone".replace(
        "test_split: test", "validation_split: dev"
    ),
    "lengthy": f"{GENERATION}\ngeneration_kwargs: {{max_gen_toks: 4, until: ['.']}}".replace(
        "data.first", "data.lengthy"
    ),
    "short": f"{GENERATION}\ngeneration_kwargs: {{max_gen_toks: 4, until: ['.']}}",
    "endless": f"{GENERATION}\ngeneration_kwargs: {{max_gen_toks: 256, until: ['.']}}",
}
GROUP = """
group: mmlu
task: [mmlu_one, mmlu_two]
aggregate_metric_list: [{metric: acc, weight_by_size: WEIGHT}]
metadata: {version: 2}
"""


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """lm-eval with tasks of ours in place of its own, whose data are on the hub."""
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "data.py").write_text(DATA)
    (folder / "absent.py").write_text("import jieba_that_is_not_there")
    for name, text in TASKS.items():
        (folder / f"{name}.yaml").write_text(f"task: {name}\n{text}")
    (folder / "mmlu.yaml").write_text(GROUP.replace("WEIGHT", "true"))
    (folder / "alike.yaml").write_text(
        GROUP.replace("WEIGHT", "false").replace("group: mmlu", "group: alike")
    )
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    monkeypatch.setattr(harness, "_index", lambda: manager)
    return folder


def test_a_group_is_its_examples(index: Path, loaded: Loaded) -> None:
    group = evaluate(loaded, "mmlu", num_fewshot=0)
    parts = [evaluate(loaded, name, num_fewshot=0) for name in ("mmlu_one", "mmlu_two")]
    assert (group.n, [part.n for part in parts]) == (8, [3, 5])
    answers = [
        answer for part in parts for answer in (part.answers if part.answers is not None else [])
    ]
    assert group.answers is not None
    assert group.answers.tolist() == answers
    assert group.acc.value == pytest.approx(np.mean(answers))
    assert group.acc.stderr
    assert "lm-eval group mmlu, version 2: 2 subtasks, weighted by size" in group.protocol
    assert "lm-eval task mmlu_one, version 3" in parts[0].protocol
    assert len({group.sha256, *(part.sha256 for part in parts)}) == 3
    assert group.file is None
    alike = evaluate(loaded, "alike", num_fewshot=0)
    means = [part.acc.value for part in parts]
    assert alike.acc.value == pytest.approx((means[0] + means[1]) / 2)  # type: ignore[operator]
    assert "weighted alike" in alike.protocol


def test_acc_norm_is_computed_where_lm_eval_has_none(
    index: Path, loaded: Loaded, tmp_path: Path
) -> None:
    named = evaluate(loaded, "mmlu_one", num_fewshot=0)
    local = evaluate(loaded, write(tmp_path / "openbookqa.jsonl", QUESTIONS[:3]))
    assert named.answers_norm is not None
    assert local.answers_norm is not None
    assert named.answers_norm.tolist() == local.answers_norm.tolist()
    assert named.acc_norm == local.acc_norm


@pytest.mark.parametrize(("asked", "shots"), [(None, 5), (0, 0), (2, 2)])
def test_mmlu_has_five_examples_unless_told_otherwise(
    index: Path, asked: int | None, shots: int
) -> None:
    for name in ("mmlu", "mmlu_two"):
        (entry,) = load_tasks(choose_tasks([name], num_fewshot=asked))
        assert {task.get_config("num_fewshot") for task in entry.tasks} == {shots}


def test_a_task_without_examples_by_definition_stays_so(index: Path) -> None:
    told = Told()
    (entry,) = load_tasks(choose_tasks(["fixed"], num_fewshot=3), told)
    assert entry.tasks[0].get_config("num_fewshot") == 0
    assert told.messages == ["--num-fewshot does not apply to fixed, which is 0-shot"]


@pytest.mark.parametrize("name", ["only_test", "only_dev"])
def test_the_asked_question_is_no_worked_example(index: Path, name: str) -> None:
    (entry,) = load_tasks(choose_tasks([name], num_fewshot=len(QUESTIONS) - 1))
    made = entry.tasks[0]
    made.set_fewshot_seed(0)
    with quiet():
        made.build_all_requests()
    for instance in made.instances:
        assert instance.args[0].count(QUESTIONS[instance.doc_id][0]) == 1


def test_a_generation_that_loses_its_beginning_is_counted(index: Path, loaded: Loaded) -> None:
    told = Told()
    score = evaluate(loaded, "lengthy", progress=told)
    assert (score.n, score.truncated) == (2, 1)
    assert told.messages[0].startswith("lengthy: 1 of 2 examples are longer than")


def test_a_task_without_choices_has_metrics(index: Path, loaded: Loaded) -> None:
    score = evaluate(loaded, "short")
    record = score.to_json()
    assert record["metrics"].keys() == {"exact_match"}
    assert record["metrics"]["exact_match"].keys() == {"value", "stderr"}
    assert "acc" not in record
    assert score.n == 3


def test_an_answer_longer_than_the_context_is_refused(index: Path, loaded: Loaded) -> None:
    with pytest.raises(UsageError, match="--tasks endless answers in up to 256 tokens, beyond"):
        evaluate(loaded, "endless")


def test_an_unknown_name_gets_near_ones(index: Path, tmp_path: Path) -> None:
    write(tmp_path / "boolq.test.jsonl", QUESTIONS)
    with pytest.raises(UsageError, match=r"--tasks boolk is no .*: did you mean boolq\?"):
        choose_tasks(["boolk"], task_data=tmp_path)
    with pytest.raises(UsageError, match=r"--tasks mmlu_too is no .* did you mean mmlu_two"):
        choose_tasks(["mmlu_too"])


def test_a_hub_that_is_away_points_to_local_files(index: Path, tmp_path: Path) -> None:
    says = r"--tasks away: it is no local file, and .*no route to the hub\); give --task-data DIR"
    with pytest.raises(EnvironmentProblem, match=says):
        load_tasks(choose_tasks(["away"]))
    with pytest.raises(EnvironmentProblem, match=f"no file for it is in {tmp_path}"):
        load_tasks(choose_tasks(["away"], task_data=tmp_path))


def test_a_task_that_needs_packages_names_them(index: Path) -> None:
    with pytest.raises(EnvironmentProblem, match=r"--tasks needy needs more packages: .*jieba"):
        load_tasks(choose_tasks(["needy"]))


def test_a_task_that_runs_code_is_refused(index: Path) -> None:
    with pytest.raises(UsageError, match="--tasks unsafe: unsafe runs code that the model writes"):
        load_tasks(choose_tasks(["unsafe"]))


def test_a_task_that_fails_is_named(index: Path, loaded: Loaded) -> None:
    with pytest.raises(EnvironmentProblem, match=r"--tasks broken: lm_eval failed \(KeyError"):
        evaluate(loaded, "broken")
