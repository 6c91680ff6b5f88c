"""Token windows to calibrate on: from files, hub sets by name, or the model's own samples.

Packing is the paper's: every document is tokenised without special tokens, with a blank line
behind it, all are put into one stream, and windows start at distinct random places in it. Rows
that hold token ids already are windows themselves.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slimgpt.checkpoint.reader import Checkpoint
from slimgpt.errors import EnvironmentProblem, IntegrityError, UsageError, missing_extra
from slimgpt.progress import Progress, Silent, stage
from slimgpt.resources import require_memory
from slimgpt.text import Document, document, read_documents
from slimgpt.tokenizer import encode, load_tokenizer, require_in_vocabulary

if TYPE_CHECKING:
    import torch
    from torch import Tensor

SELF = "self"
DEFAULT_SAMPLES = 128
DEFAULT_SEQUENCE_LENGTH = 2048
_BETWEEN = "\n\n"
_CACHE_BYTES = 2**30


@dataclass(frozen=True, slots=True)
class HubSet:
    """A data set of the hub: its repository, configuration, files and split."""

    repository: str
    configuration: str | None = None
    files: str | None = None
    split: str = "train"
    rows: int | None = None


HUB_SETS: dict[str, HubSet] = {
    "c4": HubSet("allenai/c4", files="en/c4-train.00000-of-01024.json.gz", rows=200_000),
    "wikitext2": HubSet("Salesforce/wikitext", "wikitext-2-raw-v1"),
    "alpaca": HubSet("yahma/alpaca-cleaned"),
    "gpt4-alpaca": HubSet("vicgalle/alpaca-gpt4"),
}
"""The paper's calibration sets: the first shard of C4 (200,000 documents), Alpaca, GPT4-Alpaca."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """Windows of token ids and where they come from.

    Attributes:
        windows: (samples, tokens), int64.
        sources: as named by the user, files without their folders.
        seed: of the choice of windows.
    """

    windows: Tensor
    sources: tuple[str, ...]
    seed: int

    def describe(self) -> dict[str, Any]:
        """The ``calibration`` entry of a recipe; the digest stands for the text itself."""
        samples, tokens = self.windows.shape
        return {
            "sources": list(self.sources),
            "samples": samples,
            "sequence_length": tokens,
            "seed": self.seed,
            "windows_sha256": hashlib.sha256(self.windows.numpy().tobytes()).hexdigest(),
        }


def window_length(context_length: int | None, samples: int, sequence_length: int | None) -> int:
    """Tokens in a window: as asked, or the paper's 2048, or the model's context if shorter.

    Raises:
        UsageError: ``--samples`` or ``--sequence-length`` is out of range.
    """
    if samples < 1:
        raise UsageError(f"--samples {samples}: give at least 1")
    if sequence_length is None:
        return min(DEFAULT_SEQUENCE_LENGTH, context_length or DEFAULT_SEQUENCE_LENGTH)
    if sequence_length < 2:
        raise UsageError(f"--sequence-length {sequence_length}: give at least 2")
    if context_length and sequence_length > context_length:
        raise UsageError(
            f"--sequence-length {sequence_length} is beyond the model's context of "
            f"{context_length} tokens"
        )
    return sequence_length


def load_calibration(
    checkpoint: Checkpoint,
    sources: Sequence[str],
    *,
    samples: int,
    sequence_length: int | None,
    seed: int,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Calibration:
    """Windows from files, hub sets (see HUB_SETS) or ``self``.

    Args:
        checkpoint: the model; its tokenizer makes the tokens.
        sources: paths or names; several are put one behind the other.
        samples: number of windows.
        sequence_length: tokens in a window; None takes 2048 or the model's context.
        seed: of the choice of windows, or of sampling.
        device: where ``self`` samples; ``auto``, ``cpu`` or ``cuda[:i]``.
        progress: watches.

    Raises:
        UsageError: too little text, or options out of range.
        IntegrityError: token ids that the model does not have, or a model that can't be sampled.
        EnvironmentProblem: a hub set without the ``data`` extra or without a network; too little
            memory.
    """
    length = window_length(checkpoint.meta.context_length, samples, sequence_length)
    # Twice the ids: while windows are drawn or gathered, what they are made from is there too.
    require_memory(2 * 8 * samples * length, f"--samples {samples} x {length} tokens")
    if list(sources) == [SELF]:
        windows = _own_samples(checkpoint, samples, length, seed, device, progress or Silent())
    elif SELF in sources:
        raise UsageError("--calibration self can't be mixed with other sources")
    else:
        documents = [d for source in sources for d in _read(source)]
        windows = _windows(checkpoint, documents, samples, length, seed)
    return Calibration(windows, tuple(Path(s).name for s in sources), seed)


def _read(source: str) -> list[Document]:
    if source in HUB_SETS and not Path(source).exists():
        return hub_documents(source, HUB_SETS[source], "--calibration")
    return read_documents(Path(source), "--calibration")


def hub_documents(name: str, hub_set: HubSet, option: str) -> list[Document]:
    """The documents of a hub set, through the ``datasets`` library.

    Args:
        name: of the set.
        hub_set: where it is.
        option: the flag that named it, for messages.

    Raises:
        EnvironmentProblem: the library is missing, or the hub can't be reached.
    """
    try:
        from datasets import load_dataset
    except ImportError:
        raise missing_extra(f"{option} {name}", "data") from None
    try:
        rows = load_dataset(
            hub_set.repository,
            hub_set.configuration,
            data_files=hub_set.files,
            split=hub_set.split if hub_set.rows is None else f"{hub_set.split}[:{hub_set.rows}]",
        )
    except Exception as reason:  # noqa: BLE001 - each library below has its own kinds
        instead = "a text file, or --calibration self" if option == "--calibration" else "a file"
        raise EnvironmentProblem(
            f"{option} {name}: {hub_set.repository} can't be loaded from the hub "
            f"({type(reason).__name__}); give {instead}"
        ) from None
    return [document(row, f"{name} row {i}") for i, row in enumerate(rows, 1)]


def _windows(
    checkpoint: Checkpoint, documents: list[Document], samples: int, length: int, seed: int
) -> Tensor:
    import torch

    vocabulary = checkpoint.shape.vocab_size
    generator = torch.Generator().manual_seed(seed)
    if all(d.ids is not None for d in documents):
        rows = [list(d.ids or ()) for d in documents]
        for number, row in enumerate(rows, 1):
            require_in_vocabulary(row, vocabulary, f"--calibration row {number}")
        return _rows(rows, samples, length, generator)
    tokenizer = load_tokenizer(checkpoint.directory)
    stream = array("i")  # the first shard of C4 has 100 million tokens: 4 bytes each, not 36
    for d in documents:
        ids = d.ids if d.ids is not None else encode(tokenizer, d.text + _BETWEEN)
        require_in_vocabulary(ids, vocabulary, "--calibration")
        stream.extend(ids)
    return _cut(stream, samples, length, generator)


def _cut(stream: array[int], samples: int, length: int, generator: torch.Generator) -> Tensor:
    """Windows at distinct uniform places of the stream."""
    import torch

    places = len(stream) - length + 1
    if places < samples:
        raise UsageError(
            f"--calibration has {len(stream)} tokens, too short for {samples} distinct windows of "
            f"{length}: give more text, or lower --samples or --sequence-length"
        )
    starts = torch.randperm(places, generator=generator, dtype=torch.int32)[:samples]
    ids = torch.frombuffer(stream, dtype=torch.int32)
    return ids[starts[:, None] + torch.arange(length)].long()


def _rows(rows: list[list[int]], samples: int, length: int, generator: torch.Generator) -> Tensor:
    """Random distinct rows of token ids, cut to the length."""
    import torch

    long_enough = [row[:length] for row in rows if len(row) >= length]
    if len(long_enough) < samples:
        raise UsageError(
            f"--calibration has {len(long_enough)} rows of at least {length} token ids, too short "
            f"for {samples} windows: give more rows, or lower --samples or --sequence-length"
        )
    chosen = torch.randperm(len(long_enough), generator=generator)[:samples]
    return torch.tensor(long_enough)[chosen]


def _own_samples(
    checkpoint: Checkpoint, samples: int, length: int, seed: int, device: str, progress: Progress
) -> Tensor:
    """Samples of the dense model itself: calibration without any data.

    The whole model is loaded; as many windows are sampled together as keep the KV cache small.
    """
    from slimgpt.loading import load_model
    from slimgpt.sampling import sample_windows

    model, meta = load_model(checkpoint.directory, device=device, dtype=checkpoint.meta.dtype)
    window_bytes = length * meta.shape.kv_bytes_per_token(meta.bytes_per_value)
    try:
        with stage(progress, "sampling calibration", samples * length):
            return sample_windows(
                model,
                samples=samples,
                length=length,
                bos_token_id=model.generation_config.bos_token_id,
                seed=seed,
                batch_size=max(1, min(32, _CACHE_BYTES // max(1, window_bytes))),
                progress=progress.advance,
            )
    except ValueError as reason:
        raise IntegrityError(f"--calibration self, {meta.directory}: {reason}") from None
