"""Which layers of a Qwen have a window: what transformers reads from the same config."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import Qwen2Config, Qwen3Config

from slimgpt.errors import IntegrityError
from slimgpt.families.qwen import Qwen2, Qwen3

LAYERS, WINDOW = 4, 7
ON: dict[str, Any] = {
    "num_hidden_layers": LAYERS,
    "use_sliding_window": True,
    "sliding_window": WINDOW,
}


@pytest.mark.parametrize("first", [0, 1, 3, 4, 28])
@pytest.mark.parametrize(("family", "stock"), [(Qwen2(), Qwen2Config), (Qwen3(), Qwen3Config)])
def test_windows_begin_where_transformers_has_them(family: Any, stock: Any, first: int) -> None:
    config = ON | {"max_window_layers": first}
    windows = [family.sliding_window(config, layer) for layer in range(LAYERS)]
    types = stock(**config).layer_types
    assert windows == [WINDOW if t == "sliding_attention" else None for t in types]


@pytest.mark.parametrize("value", [False, -1, "0", 0.0, None])
def test_another_number_of_layers_is_damage(value: Any) -> None:
    with pytest.raises(IntegrityError, match="max_window_layers must be"):
        Qwen2().sliding_window(ON | {"max_window_layers": value}, 0)
