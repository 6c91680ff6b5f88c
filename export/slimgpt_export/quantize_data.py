"""Options of a quantisation that concern text, resolved against the manifest of MODEL.

The text is by default that of the pruning run, as the manifest of MODEL tells. The manifest has
names and a digest of the windows, not the text: files are looked for where the command runs, and
the windows must be the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slimgpt.calibration import DEFAULT_SAMPLES, HUB_SETS, SELF, window_length
from slimgpt.checkpoint.reader import Checkpoint
from slimgpt.errors import UsageError

NEEDS_TEXT = "--text FILE for what is measured"
LARGEST_SEED = 2**32 - 1
_BOUNDS = (("samples", 1, 2**31), ("sequence_length", 2, 2**31), ("seed", 0, LARGEST_SEED))


@dataclass(frozen=True, slots=True)
class DataOptions:
    """What the user asked for; None and () leave it to the manifest of MODEL.

    Attributes:
        calibration: files, names of hub sets, or ``self``.
        samples: calibration windows.
        sequence_length: tokens in a window.
        seed: of the choice of windows.
        text: a file to measure on, instead of windows of the calibration text.
        window: tokens in a window of that file; None takes those of the calibration.
    """

    calibration: tuple[str, ...] = ()
    samples: int | None = None
    sequence_length: int | None = None
    seed: int | None = None
    text: Path | None = None
    window: int | None = None


@dataclass(frozen=True, slots=True)
class Chosen:
    """Options with every default resolved.

    Attributes:
        sources: of the calibration text; empty where none is needed.
        samples: calibration windows.
        length: tokens in a window.
        seed: of the choice of windows.
        digest: of the windows of the pruning run, where they must be the same.
        pruning_digest: of the windows of the pruning run, where it is known.
    """

    sources: tuple[str, ...]
    samples: int
    length: int
    seed: int
    digest: str | None
    pruning_digest: str | None


def choose(
    checkpoint: Checkpoint, recipe: Mapping[str, Any], options: DataOptions, *, calibrated: bool
) -> Chosen:
    """Resolves the options against the recipe of the pruning run.

    Args:
        checkpoint: MODEL.
        recipe: of its manifest; empty where it has none.
        options: what the user asked for.
        calibrated: whether the scheme needs calibration text.

    Raises:
        UsageError: what is missing, and the flag to give.
    """
    if options.window is not None and options.text is None:
        raise UsageError("--window goes with --text: give the FILE to measure on")
    done = _calibration_entry(recipe)
    samples = _first(options.samples, done.get("samples"), DEFAULT_SAMPLES)
    length = window_length(
        checkpoint.meta.context_length,
        samples,
        _first(options.sequence_length, done.get("sequence_length")),
    )
    seed = _first(options.seed, done.get("seed"), 0)
    if not calibrated and options.text:
        return Chosen((), samples, length, seed, None, None)
    overridden = (options.calibration, options.samples, options.sequence_length, options.seed)
    sources = options.calibration or _sources(done, calibrated=calibrated)
    pruned_on = done.get("windows_sha256")
    same = pruned_on if all(x in ((), None) for x in overridden) else None
    return Chosen(sources, samples, length, seed, same, pruned_on)


def _first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)


def _calibration_entry(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The ``calibration`` entry of a recipe, without what can't be one: it came from anyone."""
    entry = recipe.get("calibration")
    if not isinstance(entry, Mapping):
        return {}
    kept = {
        key: entry[key]
        for key, least, most in _BOUNDS
        if type(entry.get(key)) is int and least <= entry[key] <= most
    }
    sources = entry.get("sources")
    if isinstance(sources, list) and all(isinstance(x, str) and _is_bare(x) for x in sources):
        kept["sources"] = sources
    if isinstance(entry.get("windows_sha256"), str):
        kept["windows_sha256"] = entry["windows_sha256"]
    return kept


def _is_bare(name: str) -> bool:
    """Whether it is a file's name without a folder, as slimgpt writes it.

    Another could make us read, and publish a measure of, a file that the user never named.
    """
    return Path(name).name == name != "" and name.isprintable()


def _sources(done: Mapping[str, Any], *, calibrated: bool) -> tuple[str, ...]:
    """The sources of the pruning run, if they are at hand.

    Raises:
        UsageError: they are not.
    """
    give = "--calibration FILE" if calibrated else NEEDS_TEXT
    names = tuple(done.get("sources", ()))
    if not names:
        raise UsageError(f"MODEL does not say on what text it was pruned: give {give}")
    if names == (SELF,):
        raise UsageError(
            "MODEL was pruned on samples of the dense model: give --calibration self for samples "
            f"of MODEL itself, or {give}"
        )
    lost = [name for name in names if name not in HUB_SETS and not Path(name).is_file()]
    if lost:
        wanted = "--calibration with its path" if calibrated else NEEDS_TEXT
        raise UsageError(f"MODEL was pruned on {lost[0]}, which is not here: give {wanted}")
    return names
