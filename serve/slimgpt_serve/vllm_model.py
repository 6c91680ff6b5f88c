"""Pruned checkpoints in vLLM: its own Llama, each layer built at its own widths.

Llama's decoder layer covers every family of the core: Mistral differs from it by a window, Qwen2
by biases, Qwen3 by q and k norms.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from vllm.config import VllmConfig, get_current_vllm_config
from vllm.distributed import get_tensor_model_parallel_world_size
from vllm.model_executor.layers.attention import Attention
from vllm.model_executor.layers.layernorm import RMSNorm
from vllm.model_executor.models.llama import LlamaAttention, LlamaDecoderLayer, LlamaForCausalLM
from vllm.model_executor.models.utils import extract_layer_index
from vllm.platforms import current_platform

from slimgpt_serve.head_sizes import kernel_head_dim
from slimgpt_serve.parallel import require_attention, require_divisible
from slimgpt_serve.vllm_config import layer_shapes, of_layer

_ANY_FFN = 128


class SlimAttention(LlamaAttention):  # type: ignore[misc]
    """Llama's attention, with q and k normalised per head where the family does so (Qwen3)."""

    attn: Attention

    def __init__(self, config: Any, *, prefix: str, **options: Any) -> None:
        super().__init__(config=config, prefix=prefix, **options)
        self.qk_norm = config.model_type in ("qwen3", "slimgpt_qwen3")
        if self.qk_norm:
            self.q_norm = RMSNorm(self.head_dim, eps=config.rms_norm_eps)
            self.k_norm = RMSNorm(self.head_dim, eps=config.rms_norm_eps)
        platform = "cpu" if current_platform.is_cpu() else "cuda"
        self.padding = kernel_head_dim(self.head_dim, platform) - self.head_dim
        if self.padding:
            self._widen(prefix, options["cache_config"], options["quant_config"])

    def _widen(self, prefix: str, cache_config: Any, quant_config: Any) -> None:
        """Makes the kernel and its KV cache anew, for heads with zeros behind."""
        name = f"{prefix}.attn"
        # vLLM keeps its attention layers by name, and refuses a second of the same.
        del get_current_vllm_config().compilation_config.static_forward_context[name]
        self.attn = Attention(
            self.num_heads,
            self.head_dim + self.padding,
            self.scaling,
            num_kv_heads=self.num_kv_heads,
            cache_config=cache_config,
            quant_config=quant_config,
            per_layer_sliding_window=self.attn.sliding_window,
            prefix=name,
        )

    def forward(self, positions: torch.Tensor, hidden_states: torch.Tensor) -> torch.Tensor:
        qkv, _ = self.qkv_proj(hidden_states)
        q, k, v = qkv.split([self.q_size, self.kv_size, self.kv_size], dim=-1)
        if self.qk_norm:
            q, k = self._by_head(self.q_norm, q), self._by_head(self.k_norm, k)
        q, k = self.rotary_emb(positions, q, k)
        if self.padding:
            q, k, v = (self._by_head(self._pad, x) for x in (q, k, v))
        attended = self.attn(q, k, v)
        if self.padding:
            wide = attended.unflatten(-1, (self.num_heads, -1))
            attended = wide[..., : self.head_dim].flatten(-2)
        output, _ = self.o_proj(attended)
        return output  # type: ignore[no-any-return]

    def _by_head(
        self, change: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor
    ) -> torch.Tensor:
        return change(x.unflatten(-1, (-1, self.head_dim))).flatten(-2)

    def _pad(self, heads: torch.Tensor) -> torch.Tensor:
        return F.pad(heads, (0, self.padding))


class NoAttention(nn.Module):
    """Takes the place of an attention that is absent, so that no KV cache is made for it."""

    def __init__(self, **_: Any) -> None:
        super().__init__()


class SlimDecoderLayer(LlamaDecoderLayer):  # type: ignore[misc]
    """One decoder layer at its own widths; an absent sub-block leaves the residual as it is."""

    def __init__(self, vllm_config: VllmConfig, prefix: str = "") -> None:
        config = vllm_config.model_config.hf_config
        layer = of_layer(config, extract_layer_index(prefix))
        self.has_attention, self.has_ffn = (
            layer.num_attention_heads > 0,
            layer.intermediate_size > 0,
        )
        if not self.has_ffn:  # built at a width that every kernel takes, and taken out again
            layer.intermediate_size = _ANY_FFN * get_tensor_model_parallel_world_size()
        super().__init__(
            vllm_config, prefix, layer, SlimAttention if self.has_attention else NoAttention
        )
        if not self.has_attention:
            del self.self_attn, self.input_layernorm
        if not self.has_ffn:
            del self.mlp, self.post_attention_layernorm

    def forward(
        self, positions: torch.Tensor, hidden_states: torch.Tensor, residual: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As Llama's: the sum of both results is the residual stream, added by the next norm."""
        if residual is None:  # the first layer that this rank runs, whichever parts it has
            residual, hidden_states = hidden_states, torch.zeros_like(hidden_states)
        if self.has_attention:
            hidden_states, residual = self.input_layernorm(hidden_states, residual)
            hidden_states = self.self_attn(positions=positions, hidden_states=hidden_states)
        if self.has_ffn:
            hidden_states, residual = self.post_attention_layernorm(hidden_states, residual)
            hidden_states = self.mlp(hidden_states)
        return hidden_states, residual


class SlimForCausalLM(LlamaForCausalLM):  # type: ignore[misc]
    """A pruned model of any family of the core."""

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        """Builds every layer at its own widths.

        Raises:
            UsageError: the tensor-parallel degree does not divide a layer, or a pipeline stage has
                no attention.
        """
        layers = layer_shapes(vllm_config.model_config.hf_config)
        require_divisible(layers, get_tensor_model_parallel_world_size())
        super().__init__(vllm_config=vllm_config, prefix=prefix, layer_type=SlimDecoderLayer)
        require_attention(layers, self.model.start_layer, self.model.end_layer)
