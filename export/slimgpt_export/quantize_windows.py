"""Windows of a quantisation: to calibrate on, and to measure on what it has not seen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from slimgpt.calibration import SELF, Calibration, load_calibration
from slimgpt.checkpoint.digest import file_sha256
from slimgpt.checkpoint.reader import Checkpoint
from slimgpt.errors import EnvironmentProblem, UsageError
from slimgpt.progress import Progress
from slimgpt_export.quantize_data import LARGEST_SEED, NEEDS_TEXT, Chosen, DataOptions

if TYPE_CHECKING:
    from torch import Tensor

    from slimgpt.evaluate.windows import EvaluationText

HELD_OUT_WINDOWS = 32
SHARED_TOKENS = 16
"""Windows of the calibration text are held out that share no run of so many tokens with it."""

_CANDIDATES = 4 * HELD_OUT_WINDOWS


@dataclass(frozen=True, slots=True)
class Data:
    """The windows of a quantisation.

    Attributes:
        calibration: windows for GPTQ; None for a scheme that needs none.
        held_out: windows to measure on.
        held_out_digest: SHA-256 of the file of ``--text``.
        as_pruned: whether MODEL was pruned on the very same calibration windows.
    """

    calibration: Calibration | None
    held_out: EvaluationText
    held_out_digest: str | None
    as_pruned: bool

    def describe(self) -> dict[str, Any]:
        """The ``calibration`` entry of the recipe."""
        if self.calibration is None:
            return {}
        return {
            "calibration": self.calibration.describe() | {"same_as_pruning": self.as_pruned},
        }


def load_data(
    checkpoint: Checkpoint,
    chosen: Chosen,
    options: DataOptions,
    *,
    calibrated: bool,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Data:
    """Windows to calibrate on, and others to measure on.

    Args:
        checkpoint: MODEL; its tokenizer makes the tokens.
        chosen: see :func:`choose`.
        options: what the user asked for.
        calibrated: whether the scheme needs calibration windows.
        device: where ``self`` samples.
        progress: watches.

    Raises:
        UsageError: too little text, or other text than that of the pruning run.
    """
    from slimgpt.evaluate.windows import load_text

    held_out = None
    if options.text:
        held_out = load_text(checkpoint.meta, options.text, options.window or chosen.length)
    if not chosen.sources:
        assert held_out is not None
        assert options.text is not None
        return Data(None, held_out, file_sha256(options.text), as_pruned=False)

    def load(samples: int, seed: int = chosen.seed) -> Calibration:
        return load_calibration(
            checkpoint,
            chosen.sources,
            samples=samples,
            sequence_length=chosen.length,
            seed=seed,
            device=device,
            progress=progress,
        )

    if held_out:
        calibration, spare = load(chosen.samples), None
    elif chosen.sources == (SELF,):
        calibration = load(chosen.samples)
        spare = load(_CANDIDATES, (chosen.seed + 1) % LARGEST_SEED).windows
    else:
        calibration, spare = _with_spare(load, chosen.samples)
    found = calibration.describe()["windows_sha256"]
    if chosen.digest and found != chosen.digest:
        raise UsageError(
            f"{', '.join(chosen.sources)} here is not the text that MODEL was pruned on: give "
            "--calibration with the path of that text, or of another"
        )
    if held_out is None:
        assert spare is not None
        held_out = _held_out(calibration, spare)
    return Data(
        calibration if calibrated else None,
        held_out,
        file_sha256(options.text) if options.text else None,
        as_pruned=found == chosen.pruning_digest,
    )


def _with_spare(load: Callable[[int], Calibration], samples: int) -> tuple[Calibration, Tensor]:
    """The windows of a calibration and further ones, as many as the text has.

    More windows of the same seed begin with the windows that fewer are.
    """
    spare = _CANDIDATES
    while spare:
        try:
            calibration = load(samples + spare)
        except UsageError:  # too little text for so many
            spare //= 2
            continue
        except EnvironmentProblem:  # too little memory, or no hub: told for the samples asked
            break
        windows = calibration.windows
        used = Calibration(windows[:samples], calibration.sources, calibration.seed)
        return used, windows[samples:]
    calibration = load(samples)
    return calibration, calibration.windows[:0]


def _held_out(calibration: Calibration, spare: Tensor) -> EvaluationText:
    """Windows that have nothing in common with those of the calibration.

    Raises:
        UsageError: there is none.
    """
    import torch

    from slimgpt.evaluate.windows import EvaluationText

    seen: set[bytes] = set()
    for window in calibration.windows:
        seen.update(_runs(window))
    apart = [window for window in spare if seen.isdisjoint(_runs(window))][:HELD_OUT_WINDOWS]
    if not apart:
        length = calibration.windows.shape[1]
        raise UsageError(
            f"{', '.join(calibration.sources)} has no window of {length} tokens that is apart from "
            f"the {len(calibration.windows)} to calibrate on: give {NEEDS_TEXT}"
        )
    name = ", ".join(calibration.sources)
    return EvaluationText(
        torch.stack(apart),
        name,
        f"windows of that text which share no run of {SHARED_TOKENS} tokens with the calibration "
        "windows",
    )


def _runs(window: Tensor) -> set[bytes]:
    """Every run of SHARED_TOKENS tokens; of a shorter window, the whole."""
    ids = window.numpy().tobytes()
    width = window.element_size()
    size = min(SHARED_TOKENS, len(window)) * width
    return {ids[i : i + size] for i in range(0, len(ids) - size + 1, width)}
