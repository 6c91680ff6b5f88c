"""Damaged, hostile and unsupported configs: one line, the right exit code, nothing written."""

import pytest

from tests.command_line import INTEGRITY, USAGE, Desk
from tests.spoiling import Spoil, a_folder, chain, config, holding, without

CONFIG = "config.json"
SUPPORTED = "supported: Llama 1/2/3, Vicuna, Mistral, Qwen2, Qwen3, Baichuan-7B"
SIZES = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "vocab_size",
)
POSITIVE = "must be a positive whole number"

CONFIGS: dict[str, tuple[Spoil, int, tuple[str, ...]]] = {
    "no JSON": (holding(CONFIG, b"{"), INTEGRITY, ("config.json is not valid JSON",)),
    "empty": (holding(CONFIG, b""), INTEGRITY, ("config.json is not valid JSON",)),
    "no UTF-8": (holding(CONFIG, b"\xff\xfe{"), INTEGRITY, ("config.json is not valid JSON",)),
    "nested without end": (holding(CONFIG, b"[" * 100_000), INTEGRITY, ("not valid JSON",)),
    "a list": (holding(CONFIG, b"[]"), INTEGRITY, ("holds a JSON list, not an object",)),
    "65 MiB": (holding(CONFIG, b" " * (65 * 2**20)), INTEGRITY, ("is larger than",)),
    "a folder": (a_folder(CONFIG), INTEGRITY, ("config.json", "is no file")),
    **{f"no {key}": (without(key), INTEGRITY, (f"{key} {POSITIVE}, not None",)) for key in SIZES},
    "size in words": (config(hidden_size="128"), INTEGRITY, ("hidden_size", "not '128'")),
    "size with a point": (config(vocab_size=4096.0), INTEGRITY, ("vocab_size", "not 4096.0")),
    "size true": (config(hidden_size=True), INTEGRITY, ("hidden_size", "not True")),
    "size negative": (config(hidden_size=-128), INTEGRITY, ("hidden_size", "not -128")),
    "no layers": (config(num_hidden_layers=0), INTEGRITY, ("num_hidden_layers", "not 0")),
    "a billion layers": (config(num_hidden_layers=10**9), INTEGRITY, ("beyond any model",)),
    "a size beyond all": (config(hidden_size=10**30), INTEGRITY, ("hidden_size is 1000",)),
    "context negative": (
        config(max_position_embeddings=-5),
        INTEGRITY,
        ("max_position_embeddings must be a positive whole number, not -5",),
    ),
    "heads that do not divide": (
        config(num_key_value_heads=3),
        INTEGRITY,
        ("query heads must be a multiple of KV heads",),
    ),
    "width that does not divide": (
        chain(without("head_dim"), config(hidden_size=130)),
        INTEGRITY,
        ("hidden_size 130 is no multiple of num_attention_heads 8",),
    ),
    "flag in words": (config(tie_word_embeddings="yes"), INTEGRITY, ("tie_word_embeddings",)),
    "another head_dim": (config(head_dim=15), INTEGRITY, ("q_proj.weight is [128, 128]", "[120,")),
    "names no list": (config(architectures=5), INTEGRITY, ("architectures must be a list",)),
    "layers no mapping": (config(per_layer_config=[1]), INTEGRITY, ("per_layer_config must map",)),
    "layer beyond": (config(per_layer_config={"9": {}}), INTEGRITY, ("per_layer_config",)),
    "skip no list": (config(per_layer_config={"0": {"skip": 5}}), INTEGRITY, ("malformed",)),
    "rope unknown": (
        config(rope_parameters={"rope_type": "spiral", "rope_theta": 1e4}),
        INTEGRITY,
        ("config.json is refused by transformers", "spiral"),
    ),
    "rope without its factor": (
        config(rope_parameters={"rope_type": "linear", "rope_theta": 1e4}),
        INTEGRITY,
        ("config.json is refused by transformers", "factor"),
    ),
    "activation unknown": (config(hidden_act="wavy"), INTEGRITY, ("refused by", "wavy")),
    "norm nan": (config(rms_norm_eps=float("nan")), INTEGRITY, ("rms_norm_eps can't be nan",)),
    "norm in words": (config(rms_norm_eps="small"), INTEGRITY, ("refused by", "rms_norm_eps")),
    "architecture unsupported": (
        config(model_type="gpt2", architectures=["GPT2LMHeadModel"]),
        USAGE,
        ("unsupported architecture GPT2LMHeadModel (model_type 'gpt2')", SUPPORTED),
    ),
    "class unsupported": (
        config(architectures=["LlamaForSequenceClassification"]),
        USAGE,
        ("unsupported architecture LlamaForSequenceClassification", SUPPORTED),
    ),
    "no architecture": (
        without("architectures", "model_type"),
        USAGE,
        ("unsupported architecture no architecture", SUPPORTED),
    ),
    "Baichuan-13B": (
        chain(
            without("max_position_embeddings"),
            config(model_type="baichuan", architectures=["BaichuanForCausalLM"]),
        ),
        USAGE,
        ("Baichuan-13B uses ALiBi", SUPPORTED),
    ),
    "Baichuan 2": (
        config(model_type="baichuan", architectures=["BaichuanForCausalLM"], vocab_size=125_696),
        USAGE,
        ("Baichuan 2 normalises its LM head", SUPPORTED),
    ),
    "quantised": (
        config(quantization_config={"quant_method": "gptq", "bits": 4}),
        USAGE,
        ("quantization_config", "prune first, quantise after"),
    ),
    "dtype unsupported": (
        config(dtype="float8_e4m3fn"),
        USAGE,
        ("stored as float8_e4m3fn", "bfloat16, float16, float32"),
    ),
    "dtype no name": (config(dtype=["bfloat16"]), USAGE, ("is stored as ['bfloat16']",)),
}


@pytest.mark.parametrize(("spoil", "code", "says"), CONFIGS.values(), ids=CONFIGS)
def test_a_config_that_cannot_be(
    desk: Desk, spoil: Spoil, code: int, says: tuple[str, ...]
) -> None:
    spoil(desk)
    desk.refuses(desk.prune(), code, *says)
