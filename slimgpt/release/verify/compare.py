"""A claim beside what was measured again: equal within what machines differ by.

Another machine, another number of threads and another harness move numbers a little. The
tolerances are what such moves stay within, and less than what a release is judged by.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import isclose

from slimgpt.errors import IntegrityError, Unresolved
from slimgpt.release.card.markdown import plain
from slimgpt.release.verify.checks import Check, attempt
from slimgpt.release.verify.schema import AccuracyClaim, Scores, TaskClaim, TextClaim

PERPLEXITY_TOLERANCE = 0.005
"""Relative."""
KL_TOLERANCE = 1e-3
"""Nats a token, or KL_SHARE of the divergence where that is more."""
KL_SHARE = 0.02
ANSWERS_TOLERANCE = 1
"""Questions answered otherwise, or ANSWERS_SHARE of all where that is more."""
ANSWERS_SHARE = 0.002
SAME_ANSWERS_TOLERANCE = 0.005
"""Of a ratio of accuracies and its bounds, where every task came out as it is claimed."""

ACCURACY = "accuracy ratio"
DEFAULT_CONFIDENCE = 0.95


def compare_text(claim: TextClaim, measured: TextClaim, *, beside_source: bool) -> Iterator[Check]:
    """Checks of the numbers of one text."""
    name = f"{plain(claim.text)}, {claim.protocol}, windows of {claim.window}"
    yield _perplexity(f"perplexity ({name})", claim.perplexity, measured.perplexity)
    if claim.baseline_perplexity is None and claim.kl is None:
        return
    before, divergence = f"source's perplexity ({name})", f"KL to the source ({name})"
    if not beside_source:
        yield from (without_source(before), without_source(divergence))
        return
    yield _perplexity(before, claim.baseline_perplexity, measured.baseline_perplexity)
    allowed = max(KL_TOLERANCE, KL_SHARE * (measured.kl or 0))
    yield attempt(divergence, lambda: _near(claim.kl, measured.kl, allowed))


def compare_task(
    name: str, claim: TaskClaim, measured: TaskClaim, *, beside_source: bool
) -> Iterator[Check]:
    """Checks of the scores of one task."""
    allowed = answers_tolerance(measured.n)
    shown = plain(f"{name}, {claim.file}" if claim.file else name)

    def own() -> str:
        if claim.n != measured.n:
            raise IntegrityError(f"{claim.n} questions claimed, {measured.n} asked")
        if claim.sha256 and claim.sha256 != measured.sha256:
            raise IntegrityError("the questions are not those of the claim")
        if claim.num_fewshot not in (None, measured.num_fewshot):
            raise IntegrityError(f"it is {measured.num_fewshot}-shot, not {claim.num_fewshot}-shot")
        return _scores(claim, measured, allowed)

    yield attempt(f"task {shown}", own)
    if claim.baseline is not None:
        before, dense = f"source's task {shown}", claim.baseline
        if beside_source:
            scores = measured.baseline or Scores()
            yield attempt(before, lambda: _scores(dense, scores, allowed))
        else:
            yield without_source(before)


def compare_accuracy(
    claim: AccuracyClaim,
    measured: AccuracyClaim | None,
    tasks: Mapping[str, TaskClaim],
    claimed_tasks: Mapping[str, TaskClaim],
) -> Check:
    """The check of the accuracy ratio and of its bounds.

    Where every task came out as it is claimed, so must they; else each task may move them by its
    own tolerance.
    """

    def look() -> str:
        if measured is None:
            raise IntegrityError("it can't be had from the tasks that are claimed")
        moved = sum(answers_tolerance(task.n) for task in tasks.values()) / len(tasks)
        # A ratio moves with both of its parts.
        allowed = 2 * moved / max(measured.baseline_mean or 0, moved)
        if all(_same_scores(claimed_tasks[name], task) for name, task in tasks.items()):
            moved = allowed = SAME_ANSWERS_TOLERANCE
        if (claim.metric, claim.tasks, claim.n) != (measured.metric, measured.tasks, measured.n):
            raise IntegrityError(
                f"{claim.n} questions of {claim.tasks} tasks claimed, {measured.n} of "
                f"{measured.tasks} measured"
            )
        _near(claim.mean, measured.mean, moved)
        _near(claim.baseline_mean, measured.baseline_mean, moved)
        bounds = zip(claim.interval or (), measured.interval or (), strict=False)
        for one, other in [(claim.lower, measured.lower), (claim.upper, measured.upper), *bounds]:
            _near(one, other, allowed)
        found = _near(claim.ratio, measured.ratio, allowed)
        return f"{found}; lower bound {_near(claim.lower, measured.lower, allowed)}"

    return attempt(ACCURACY, look)


def _same_scores(claim: TaskClaim, measured: TaskClaim) -> bool:
    """Whether the model and its source answered a task as claimed, to the digits of a manifest."""
    pairs: list[tuple[Scores, Scores]] = [(claim, measured)]
    if claim.baseline and measured.baseline:
        pairs.append((claim.baseline, measured.baseline))
    return all(
        one.acc is not None and other.acc is not None and isclose(one.acc, other.acc, rel_tol=1e-4)
        for one, other in pairs
    )


def without_source(name: str) -> Check:
    """A check that needs the dense model, which was not given."""
    return Check(name, "not checked", "give --source with the dense model", Unresolved)


def answers_tolerance(questions: int) -> float:
    """By how much an accuracy may differ."""
    return max(ANSWERS_TOLERANCE / max(questions, 1), ANSWERS_SHARE)


def _perplexity(name: str, claimed: float | None, measured: float | None) -> Check:
    allowed = PERPLEXITY_TOLERANCE * (measured or 0)
    return attempt(name, lambda: _near(claimed, measured, allowed))


def _scores(claim: Scores, measured: Scores, allowed: float) -> str:
    """The scores that are claimed; those that another version of the harness adds are no matter."""
    found = []
    for name in ("acc", "acc_norm"):
        claimed = getattr(claim, name)
        if claimed is not None:
            found.append(f"{name} {_near(claimed, getattr(measured, name), allowed, name)}")
            error = f"{name}_stderr"
            if getattr(claim, error) is not None:
                _near(getattr(claim, error), getattr(measured, error), allowed, error)
    for name, metric in claim.metrics.items():
        again = measured.metrics.get(name)
        value = again.value if again else None
        scale = allowed * max(1.0, abs(value or 0))  # some count to 1, some to 100
        found.append(f"{plain(name)} {_near(metric.value, value, scale, plain(name))}")
    if not found:
        raise IntegrityError("no score is claimed")
    return "; ".join(found)


def _near(claimed: float | None, measured: float | None, allowed: float, what: str = "") -> str:
    """What is claimed and what was measured, in words.

    Raises:
        IntegrityError: they are further apart than is allowed, or just one of them is a number.
    """
    shown = [f"{what} {_shown(claimed)}".strip() + " claimed", f"{_shown(measured)} measured"]
    if claimed is None and measured is None:
        return ", ".join(shown)
    if claimed is None or measured is None or not abs(claimed - measured) <= allowed:
        raise IntegrityError(f"{', '.join(shown)}: at most {allowed:.2g} apart is allowed")
    return ", ".join(shown).removeprefix(what).strip()


def _shown(value: float | None) -> str:
    return "no finite number" if value is None else f"{value:.5g}"
