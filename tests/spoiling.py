"""Ways to spoil the model on a desk, as values of test tables."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch

from tests.command_line import WEIGHTS, Desk

Spoil = Callable[[Desk], object]


def chain(*spoils: Spoil) -> Spoil:
    return lambda desk: [spoil(desk) for spoil in spoils]


def config(**changes: Any) -> Spoil:
    return lambda desk: desk.edit_config(**changes)


def without(*keys: str) -> Spoil:
    return lambda desk: desk.drop_config(*keys)


def holding(name: str, content: bytes) -> Spoil:
    return lambda desk: (desk.model / name).write_bytes(content)


def a_folder(name: str) -> Spoil:
    def spoil(desk: Desk) -> None:
        (desk.model / name).unlink()
        (desk.model / name).mkdir()

    return spoil


def cut(name: str, size: int) -> Spoil:
    return lambda desk: os.truncate(desk.model / name, size)


def shards(then: Spoil) -> Spoil:
    def spoil(desk: Desk) -> None:
        desk.shard()
        then(desk)

    return spoil


def index_naming(shard: object) -> Spoil:
    return lambda desk: desk.write_index(desk.shard() | {"model.norm.weight": shard})


def value(name: str, number: float) -> Spoil:
    return lambda desk: desk.edit_weights(lambda w: w[name].view(-1)[3:4].fill_(number))


def tensor(name: str, *shape: int, dtype: torch.dtype = torch.bfloat16) -> Spoil:
    zeros = torch.zeros(shape, dtype=dtype)
    return lambda desk: desk.edit_weights(lambda weights: weights.update({name: zeros}))


def untied(desk: Desk) -> None:
    desk.edit_config(tie_word_embeddings=False)
    desk.edit_weights(
        lambda w: w.update({"lm_head.weight": w["model.embed_tokens.weight"].clone()})
    )


def pickled(desk: Desk) -> None:
    """Weights that would write a file if they were ever loaded."""
    (desk.model / WEIGHTS).unlink()
    canary = f"(S'touch {desk.root}/ran'\nios\nsystem\n."
    (desk.model / "pytorch_model.bin").write_text(canary)
    (desk.model / "pytorch_model.bin.index.json").write_text("{}")


def out_link(name: str) -> Spoil:
    return lambda desk: desk.link_out(name)


def link(name: str, target: str) -> Spoil:
    def spoil(desk: Desk) -> None:
        (desk.model / name).unlink(missing_ok=True)
        (desk.model / name).symlink_to(target.format(root=desk.root))

    return spoil
