"""``slimgpt generate``."""

from __future__ import annotations

import time
from math import isfinite

import click

from slimgpt.commands.console import Console, common, device_options, seed_option
from slimgpt.errors import UsageError


@click.command()
@click.argument("model")
@click.argument("prompt")
@click.option(
    "--max-new-tokens", type=click.IntRange(min=1), default=64, show_default=True, help="At most."
)
@click.option(
    "--temperature",
    type=click.FloatRange(min=0),
    default=0.0,
    show_default=True,
    help="0 takes the likeliest token every time.",
)
@seed_option
@device_options
@common
def generate(
    console: Console,
    model: str,
    prompt: str,
    max_new_tokens: int,
    temperature: float,
    seed: int,
    device: str,
    dtype: str,
) -> None:
    """One completion of PROMPT by MODEL, for the eye."""
    import torch
    from transformers import GenerationConfig

    from slimgpt.checkpoint.locate import locate
    from slimgpt.loading import load_model
    from slimgpt.tokenizer import load_tokenizer, require_in_vocabulary, well_formed

    if not isfinite(temperature):
        raise UsageError(f"--temperature {temperature}: give a number, like 0.7")
    directory = locate(model)
    loaded, meta = load_model(directory, device=device, dtype=dtype)
    tokenizer = load_tokenizer(directory)
    ids = tokenizer(well_formed(prompt), verbose=False)["input_ids"]
    if not ids:
        raise UsageError("PROMPT is empty: give some text to go on from")
    require_in_vocabulary(ids, meta.shape.vocab_size, "PROMPT")
    room = (meta.context_length or len(ids) + max_new_tokens) - len(ids)
    if room < 1:
        raise UsageError(
            f"PROMPT has {len(ids)} tokens, beyond the model's context of {meta.context_length}"
        )
    torch.manual_seed(seed)
    # Not the checkpoint's own settings: 0 and --temperature mean the same for every model.
    loaded.generation_config = GenerationConfig(
        max_new_tokens=min(max_new_tokens, room),
        do_sample=temperature > 0,
        temperature=temperature or None,
        top_k=0,
        eos_token_id=loaded.generation_config.eos_token_id,
        pad_token_id=0,
    )
    prompt_ids = torch.tensor([ids], device=loaded.device)
    started = time.monotonic()
    output = loaded.generate(prompt_ids, attention_mask=torch.ones_like(prompt_ids))[0]
    seconds = time.monotonic() - started
    new = len(output) - len(ids)
    text = tokenizer.decode(output[len(ids) :], skip_special_tokens=True)
    document = {"prompt": prompt, "text": text, "tokens": new, "seconds": seconds}
    if console.as_json:
        console.result(document, "")
    else:
        click.echo(prompt + text)
    console.message(f"{new} tokens in {seconds:.2f} s ({new / seconds:.0f} a second)")
