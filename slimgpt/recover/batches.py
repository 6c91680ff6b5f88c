"""Training examples as padded tensors, and the loss that is taken on them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from slimgpt.progress import Progress, Silent
from slimgpt.recover.data import Example

IGNORED = -100
_TOKENS_A_BATCH = 4096


def collate(examples: Sequence[Example]) -> dict[str, Tensor]:
    """A batch, padded on the right: ``input_ids``, ``attention_mask`` and ``labels``.

    Labels are the ids themselves where the loss is taken and -100 elsewhere, (examples, tokens).
    """
    length = max(len(e.ids) for e in examples)
    ids = torch.zeros(len(examples), length, dtype=torch.long)
    labels = torch.full_like(ids, IGNORED)
    mask = torch.zeros_like(ids)
    for row, example in enumerate(examples):
        tokens = torch.tensor(example.ids)
        ids[row, : len(tokens)] = tokens
        mask[row, : len(tokens)] = 1
        labels[row, example.answer : len(tokens)] = tokens[example.answer :]
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def by_length(examples: Sequence[Example]) -> Iterator[dict[str, Tensor]]:
    """Batches of about equally long examples, for scoring."""
    batch: list[Example] = []
    for example in sorted(examples, key=lambda e: len(e.ids)):
        if batch and (len(batch) + 1) * len(example.ids) > _TOKENS_A_BATCH:
            yield collate(batch)
            batch = []
        batch.append(example)
    if batch:
        yield collate(batch)


def scored_logits(
    model: Any, batch: dict[str, Tensor]
) -> tuple[Float[Tensor, "scored vocab"], Int[Tensor, " scored"]]:
    """Predictions at the scored tokens, float32, and those tokens."""
    where = batch["labels"][:, 1:] != IGNORED
    with _computing(model):
        output = model(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False
        )
    return output.logits[:, :-1][where].float(), batch["labels"][:, 1:][where]


def _computing(model: Any) -> AbstractContextManager[Any]:
    """Half-precision weights compute in bfloat16, float32 updates beside them included.

    Training, the losses that it is judged by and the proof of the merge all pass through here, so
    that they differ by the weights alone.
    """
    weight = model.get_input_embeddings().weight
    half = weight.dtype != torch.float32
    return torch.autocast(weight.device.type, torch.bfloat16, enabled=half)


def to_device(batch: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """The batch on a device."""
    return {name: tensor.to(device) for name, tensor in batch.items()}


@torch.no_grad()
def mean_loss(model: Any, examples: Sequence[Example], progress: Progress | None = None) -> float:
    """Mean negative log-likelihood of the scored tokens of all examples, nats.

    The model is put into evaluation mode and left as it was. ``progress`` is told of each example.
    """
    watcher = progress or Silent()
    training = model.training
    model.eval()
    total = torch.zeros((), dtype=torch.float64)
    device = next(model.parameters()).device
    for batch in by_length(examples):
        logits, targets = scored_logits(model, to_device(batch, device))
        loss = torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
        total += loss.double().cpu()
        watcher.advance(len(batch["labels"]))
    model.train(training)
    return float(total) / sum(e.scored for e in examples)
