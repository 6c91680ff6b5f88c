"""Damaged and hostile weights and links: one line, the right exit code, nothing written."""

import struct
from pathlib import Path

import pytest
import torch

from slimgpt.demo import EVALUATION
from tests.command_line import INDEX, INTEGRITY, USAGE, WEIGHTS, Desk
from tests.spoiling import (
    Spoil,
    a_folder,
    chain,
    config,
    cut,
    holding,
    index_naming,
    link,
    out_link,
    pickled,
    shards,
    tensor,
    untied,
    value,
    without,
)

CONFIG = "config.json"
UP_PROJ = "model.layers.0.mlp.up_proj.weight"

DAMAGED = ("is truncated or damaged", "download it again")
OUTSIDE = "a path outside the directory"
SECOND = "model-00002-of-00002.safetensors"

WEIGHT_FILES: dict[str, tuple[Spoil, int, tuple[str, ...]]] = {
    "no weights": (
        lambda desk: (desk.model / WEIGHTS).unlink(),
        INTEGRITY,
        ("has neither model.safetensors nor",),
    ),
    "shard missing": (
        shards(lambda desk: (desk.model / SECOND).unlink()),
        INTEGRITY,
        (f"shard {SECOND}", "is missing: download it again"),
    ),
    "shard truncated": (shards(cut(SECOND, 5000)), INTEGRITY, (SECOND, *DAMAGED)),
    "truncated": (cut(WEIGHTS, 100_000), INTEGRITY, (WEIGHTS, *DAMAGED)),
    "truncated in the header": (cut(WEIGHTS, 100), INTEGRITY, (WEIGHTS, *DAMAGED)),
    "empty": (cut(WEIGHTS, 0), INTEGRITY, (WEIGHTS, *DAMAGED)),
    "garbage": (holding(WEIGHTS, bytes(range(255, 0, -1))), INTEGRITY, (WEIGHTS, *DAMAGED)),
    "header no JSON": (
        holding(WEIGHTS, struct.pack("<Q", 50) + b'{"a":' + b"x" * 145),
        INTEGRITY,
        (WEIGHTS, *DAMAGED),
    ),
    "header without end": (
        holding(WEIGHTS, struct.pack("<Q", 2**62) + b"{}"),
        INTEGRITY,
        (WEIGHTS, *DAMAGED),
    ),
    "a folder": (a_folder(WEIGHTS), INTEGRITY, (WEIGHTS, "is no file")),
    "index no JSON": (shards(holding(INDEX, b"{")), INTEGRITY, (INDEX, "not valid JSON")),
    "index empty": (shards(lambda d: d.write_index({})), INTEGRITY, (INDEX, "no weight_map")),
    "index of lists": (shards(lambda d: d.write_index([1])), INTEGRITY, (INDEX, "no weight_map")),
    "index names the other shard": (
        lambda desk: desk.write_index(dict.fromkeys(desk.shard(), SECOND)),
        INTEGRITY,
        ("lacks", "which the shard index says it holds"),
    ),
    "index names a parent": (index_naming("../x.safetensors"), INTEGRITY, ("'../x", OUTSIDE)),
    "index names a path": (index_naming("/etc/x.safetensors"), INTEGRITY, ("'/etc/x", OUTSIDE)),
    "index names a drive": (index_naming("C:x.safetensors"), INTEGRITY, ("'C:x", OUTSIDE)),
    "index names a Windows path": (index_naming("C:\\x.safetensors"), INTEGRITY, (OUTSIDE,)),
    "index names a Windows parent": (index_naming("..\\x.safetensors"), INTEGRITY, (OUTSIDE,)),
    "index names a share": (index_naming(r"\\host\a\x.safetensors"), INTEGRITY, (OUTSIDE,)),
    "index names a pickle": (index_naming("x.bin"), INTEGRITY, ("only .safetensors files",)),
    "index names a number": (index_naming(5), INTEGRITY, ("names 5", "only .safetensors")),
    "index names nothing": (index_naming("no.safetensors"), INTEGRITY, ("is missing",)),
    "index names no file name": (
        index_naming("x" * 5000 + ".safetensors"),
        INTEGRITY,
        ("missing",),
    ),
    "NaN": (value(UP_PROJ, float("nan")), INTEGRITY, (f"{UP_PROJ} holds NaN or infinite",)),
    "NaN in a norm": (value("model.norm.weight", float("nan")), INTEGRITY, ("model.norm.weight",)),
    "infinite": (value("model.embed_tokens.weight", float("-inf")), INTEGRITY, ("embed_tokens",)),
    "infinite in the LM head": (
        chain(untied, value("lm_head.weight", float("inf"))),
        INTEGRITY,
        ("lm_head.weight holds NaN or infinite values",),
    ),
    "weight of the wrong shape": (
        tensor(UP_PROJ, 8, 128),
        INTEGRITY,
        (f"{UP_PROJ} is [8, 128], but config.json makes it [352, 128]",),
    ),
    "weight missing": (
        lambda desk: desk.edit_weights(lambda w: w.pop(UP_PROJ)),
        INTEGRITY,
        (f"lacks the weight {UP_PROJ}",),
    ),
    "weight unknown": (
        tensor("model.layers.0.mlp.gate.weight", 8),
        INTEGRITY,
        ("model.layers.0.mlp.gate.weight is no weight of llama; pruning would lose it",),
    ),
    "layer beyond the config": (config(num_hidden_layers=1), INTEGRITY, ("layers.1.", "no weight")),
    "8-bit weights": (
        tensor(UP_PROJ, 352, 128, dtype=torch.float8_e4m3fn),
        USAGE,
        ("holds F8_E4M3 weights", "prune first, quantise after"),
    ),
    "64-bit weights": (
        tensor(UP_PROJ, 352, 128, dtype=torch.float64),
        USAGE,
        ("holds F64 weights", "supported are bfloat16, float16, float32"),
    ),
    "pickles": (
        pickled,
        INTEGRITY,
        ("pickled weights (pytorch_model.bin)", "can run code", "convert them to safetensors"),
    ),
}


@pytest.mark.parametrize(("spoil", "code", "says"), WEIGHT_FILES.values(), ids=WEIGHT_FILES)
def test_weights_that_cannot_be(desk: Desk, spoil: Spoil, code: int, says: tuple[str, ...]) -> None:
    spoil(desk)
    desk.refuses(desk.prune(), code, *says)


LINK_OUT = ("is a link to a file outside the checkpoint", "replace it by the file itself")

LINKS: dict[str, tuple[Spoil, tuple[str, ...]]] = {
    "shard": (shards(out_link(SECOND)), (SECOND, *LINK_OUT)),
    "index": (shards(out_link(INDEX)), (INDEX, *LINK_OUT)),
    **{
        name: (out_link(name), (name, *LINK_OUT))
        for name in (WEIGHTS, CONFIG, "tokenizer.json", "generation_config.json", "README.md")
    },
    "anything": (link("LICENSE", "/etc/hostname"), ("LICENSE", *LINK_OUT)),
    "folder": (link("templates", "{root}"), ("templates", *LINK_OUT)),
    "folder within": (link("templates", "."), ("templates", "is no file, nor a link to one")),
    "nothing": (link("LICENSE", "nothing"), ("LICENSE", "is no file, nor a link to one")),
    "itself": (link("LICENSE", "LICENSE"), ("LICENSE", "is no file, nor a link to one")),
    "weights to themselves": (link(WEIGHTS, WEIGHTS), (WEIGHTS, "is no file, nor a link")),
}


@pytest.mark.parametrize(("spoil", "says"), LINKS.values(), ids=LINKS)
def test_links_out_of_a_checkpoint(desk: Desk, spoil: Spoil, says: tuple[str, ...]) -> None:
    spoil(desk)
    desk.refuses(desk.prune(), INTEGRITY, *says)


def _as_in_the_hub_cache(desk: Desk) -> None:
    """Moves the model to ``hub/snapshots/main``, a folder of links to ``hub/blobs``."""
    blobs, snapshot = desk.root / "hub" / "blobs", desk.root / "hub" / "snapshots" / "main"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, path in enumerate(sorted(desk.model.iterdir())):
        path.rename(blobs / str(number))
        (snapshot / path.name).symlink_to(Path("../../blobs") / str(number))
    desk.model.rmdir()
    desk.model = snapshot


def test_the_hub_cache_is_a_checkpoint(desk: Desk) -> None:
    _as_in_the_hub_cache(desk)
    ended = desk.run(desk.prune("--quiet"))
    assert (ended.code, ended.stderr) == (0, "")
    assert not any(path.is_symlink() for path in desk.out.iterdir())
    same = "tokenizer.json", "generation_config.json"
    assert all((desk.out / n).read_bytes() == (desk.model / n).read_bytes() for n in same)


def test_links_out_of_the_hub_cache(desk: Desk) -> None:
    _as_in_the_hub_cache(desk)
    link("tokenizer.json", "../../elsewhere")(desk)
    (desk.root / "hub" / "elsewhere").write_text("{}")
    desk.refuses(desk.prune(), INTEGRITY, "tokenizer.json", *LINK_OUT)


# -- the other verbs -------------------------------------------------------------------------------

READERS: dict[str, list[str]] = {
    "evaluate": ["evaluate", "{model}", "--text", str(EVALUATION)],
    "generate": ["generate", "{model}", "Once"],
    "inspect": ["inspect", "{model}"],
    "plan": ["plan", "{model}", "--ratio", "0.2"],
}
ANYWHERE: dict[str, tuple[Spoil, set[str], str]] = {
    "NaN": (
        value("model.norm.weight", float("nan")),
        {"evaluate", "generate"},
        "norm.weight holds",
    ),
    "rope": (config(rope_parameters={"rope_type": "spiral"}), {"evaluate", "generate"}, "refused"),
    "pickles": (pickled, {"evaluate", "generate", "inspect"}, "pickled weights"),
    "truncated": (cut(WEIGHTS, 5000), {"evaluate", "generate", "inspect"}, "truncated"),
    "link": (out_link("tokenizer.json"), {"evaluate", "generate", "inspect"}, "link to a file"),
    "sizes": (without("vocab_size"), set(READERS), "vocab_size"),
    "list": (holding(CONFIG, b"[]"), set(READERS), "JSON list"),
}


@pytest.mark.parametrize(
    ("spoil", "verb", "says"),
    [(spoil, verb, says) for spoil, verbs, says in ANYWHERE.values() for verb in sorted(verbs)],
    ids=[f"{name} {verb}" for name, (_, verbs, _) in ANYWHERE.items() for verb in sorted(verbs)],
)
def test_every_verb_that_reads_a_checkpoint_checks_it(
    desk: Desk, spoil: Spoil, verb: str, says: str
) -> None:
    spoil(desk)
    desk.refuses(desk.fill(READERS[verb]), INTEGRITY, says)


MANIFESTS = {
    "no JSON": ("{", "slimgpt.json is not valid JSON"),
    "a list": ("[]", "slimgpt.json holds a JSON list"),
    "of other things": ('{"recipe": 5, "parameters": "x"}', "is no manifest of slimgpt"),
    "with half a count": ('{"parameters": {"decoder_before": 5}}', "is no manifest of slimgpt"),
}


@pytest.mark.parametrize(("content", "says"), MANIFESTS.values(), ids=MANIFESTS)
def test_a_manifest_that_is_none(desk: Desk, content: str, says: str) -> None:
    (desk.model / "slimgpt.json").write_text(content)
    desk.refuses(desk.fill(READERS["inspect"]), INTEGRITY, says)
