"""KL of several choices of higher precision at once: all run side by side, layer by layer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from slimgpt.checkpoint.reader import Checkpoint
from slimgpt.progress import Progress, stage
from slimgpt.prune.activations import Activations
from slimgpt.prune.forward import LayerForward, full_float32
from slimgpt_export.onnx.divergence import Divergence
from slimgpt_export.onnx.precision import PARTS, Part, Precision
from slimgpt_export.onnx.rounded_forward import (
    AsInGraph,
    AsStored,
    Numbers,
    embedded,
    head_inputs,
    layer_part,
    run_layer,
)
from slimgpt_export.onnx.weights import EMBEDDING, HEAD

_RAISED_BITS: Mapping[str, int | None] = {"int4": 8, "int8": None}
_LOGITS_AT_A_TIME = 2**22

Raised = frozenset[Part]


def raised_precision(precision: Precision, raised: Iterable[Part]) -> Precision:
    """With some parts one step up: int4 to int8, int8 to what is not quantised."""
    bits = _RAISED_BITS[precision.name]
    return replace(precision, higher=dict.fromkeys(in_order(raised), bits))


def in_order(parts: Iterable[Part]) -> tuple[Part, ...]:
    """Parts as PARTS has them."""
    return tuple(sorted(parts, key=PARTS.index))


class SideBySide:
    """Runs the checkpoint and all combinations through one layer after the other.

    Combinations that agree so far share their activations.

    Args:
        checkpoint: dense or pruned.
        precision: of all else.
        asked: parts raised in each combination.
        windows: token ids, (windows, tokens).
        progress: watches.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        precision: Precision,
        asked: Sequence[Raised],
        windows: Tensor,
        progress: Progress,
    ) -> None:
        self._checkpoint, self._asked, self._windows = checkpoint, asked, windows
        self._progress = progress
        self._stored = AsStored(checkpoint)
        self._numbers: dict[bool, Numbers] = {
            raised: AsInGraph(checkpoint, raised_precision(precision, PARTS if raised else ()))
            for raised in (False, True)
        }
        self._streams: dict[Raised, Activations] = {}
        self._passed: Raised = frozenset()

    @torch.inference_mode()
    def run(self) -> list[float]:
        """KL of each combination, in the order given."""
        meta, count = self._checkpoint.meta, len(self._checkpoint.shape.layers)
        tokens, cpu = self._windows.shape[1], torch.device("cpu")
        forward = LayerForward(meta.family, meta.config, tokens, cpu, torch.float32)
        with full_float32(), stage(self._progress, "measuring precision", count + 1):
            reference = self._embed()
            for index in range(count):
                run_layer(forward, self._checkpoint, index, self._stored, [reference])
                part = layer_part(index, count)
                self._pass(part)
                for raised, streams in self._by_numbers(part):
                    run_layer(forward, self._checkpoint, index, self._numbers[raised], streams)
                self._progress.advance()
            self._pass("head")
            found = self._divergences(reference)
            self._progress.advance()
        return found

    def _embed(self) -> Activations:
        """Fills the streams; a tied embedding is the head, and as precise. The checkpoint's own."""
        windows = self._windows
        self._streams[frozenset()] = embedded(self._checkpoint, self._numbers[False], windows)
        if self._checkpoint.shape.tied_embeddings:
            self._pass("head")
            for raised in self._streams.keys() - {frozenset()}:
                self._streams[raised] = embedded(self._checkpoint, self._numbers[True], windows)
        return embedded(self._checkpoint, self._stored, windows)

    def _pass(self, part: Part | None) -> None:
        """From here on, combinations with and without this part have streams of their own."""
        if part is None or part in self._passed:
            return
        self._passed |= {part}
        wanted = dict.fromkeys(asked & self._passed for asked in self._asked)
        before = self._streams
        self._streams = {
            raised: before[raised] if raised in before else _copy(before[raised - {part}])
            for raised in wanted
        }

    def _by_numbers(self, part: Part | None) -> Iterator[tuple[bool, list[Activations]]]:
        """Streams, by whether this part is raised in them."""
        for raised in (False, True):
            found = [x for key, x in self._streams.items() if (part in key) == raised]
            if found:
                yield raised, found

    def _divergences(self, reference: Activations) -> list[float]:
        """From the hidden states behind the last layer."""
        checkpoint, asked, numbers = self._checkpoint, self._asked, self._numbers
        name = EMBEDDING if checkpoint.shape.tied_embeddings else HEAD
        table = checkpoint.outer(name)
        inputs = [
            head_inputs(checkpoint, numbers["head" in raised], self._streams[raised])
            for raised in asked
        ]
        whole = head_inputs(checkpoint, self._stored, reference)
        divergence = Divergence(len(whole), len(asked))
        for rows in table.split(max(1, _LOGITS_AT_A_TIME // len(whole))):
            matrices = {raised: x.rows(name, rows).T for raised, x in numbers.items()}
            logits = (x @ matrices["head" in c] for c, x in zip(asked, inputs, strict=True))
            divergence.add(whole @ self._stored.rows(name, rows).T, logits)
        return divergence.means()


def _copy(states: Activations) -> Activations:
    batches = [batch for _, batch in states]
    return Activations(torch.cat(batches), batches[0].device)
