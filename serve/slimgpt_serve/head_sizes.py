"""How wide vLLM's attention kernels take a head. Without vLLM, so that a preflight can tell."""

from __future__ import annotations

CPU_HEAD_SIZES = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)
"""``CPUAttentionBackend.get_supported_head_sizes()`` of vLLM 0.26 to 0.33 (a serving test asks the
installed one)."""


def kernel_head_dim(head_dim: int, platform: str) -> int:
    """The narrowest head that vLLM's attention takes there, at least ``head_dim``.

    Its CPU kernels have a list; on GPUs vLLM itself chooses a kernel that takes the head.

    Args:
        head_dim: of the model.
        platform: ``cpu`` or ``cuda``.
    """
    if platform != "cpu":
        return head_dim
    return min((size for size in CPU_HEAD_SIZES if size >= head_dim), default=head_dim)
