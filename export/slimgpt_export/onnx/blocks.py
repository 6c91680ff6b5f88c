"""Weights in blocks of few bits, as MatMulNBits of ONNX Runtime reads them. Pure functions.

A row of ``in`` values is cut into blocks; each has a scale, and a zero point where it is not
symmetric: ``w = (q - zero_point) * scale``, with ``q`` unsigned and ``zero_point`` in the middle of
its range where it is not stored.
Source: operator MatMulNBits in onnxruntime/docs/ContribOperators.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

_SLACKS = (-1.2, -0.8, -0.4, 0.0, 0.4, 0.8, 1.2, 1.8)
"""Levels by which the grids that are tried of each block are finer than the one that just fits it.

With fewer levels the widest value falls between two of them, with more it is clipped a little: both
often cost less than what all other values win. On Gaussian and on trained weights, in blocks of 16
to 128, these leave 5 to 19 % less squared error than the fitting grid does; 45 grids leave at most
1 % less with 4 bits, and 4 % with 8, where it matters to nobody.
"""
_VALUES_AT_A_TIME = 2**17
"""Few enough for all steps of the search to stay in a core's cache."""


@dataclass(frozen=True, slots=True)
class Blocks:
    """A quantised matrix.

    Attributes:
        values: packed, two to a byte where ``bits`` is 4, the first in the low half; (out, blocks
            of a row, bytes of a block).
        scales: (out, blocks of a row).
        zero_points: packed as the values are, (out, bytes of a row's); None if symmetric.
        bits: of a value.
        block_size: values in a block.
    """

    values: UInt8[Tensor, "out blocks bytes"]
    scales: Float[Tensor, "out blocks"]
    zero_points: UInt8[Tensor, "out bytes"] | None
    bits: int
    block_size: int

    def dequantized(self) -> Float[Tensor, "out in"]:
        """The weights that the kernel computes with, in float32."""
        middle = 2 ** (self.bits - 1)
        q = unpack(self.values, self.bits).float()
        zero: Tensor | int = middle
        if self.zero_points is not None:
            count = self.scales.shape[1]
            zero = unpack(self.zero_points, self.bits)[:, :count, None].float()
        return ((q - zero) * self.scales.float()[:, :, None]).flatten(1)


def quantize(
    weight: Float[Tensor, "out in"],
    *,
    bits: int,
    block_size: int,
    symmetric: bool,
    scale_dtype: torch.dtype = torch.float32,
) -> Blocks:
    """Rounds a matrix to blocks, each with the scale that leaves the least squared error.

    Args:
        weight: ``in`` is a multiple of ``block_size``.
        bits: 4 or 8.
        block_size: values that share a scale.
        symmetric: no zero points.
        scale_dtype: what the scales are stored in; values are rounded for the stored ones.
    """
    rows = max(1, _VALUES_AT_A_TIME // weight.shape[1])
    parts = [
        _rounded(part.float().unflatten(1, (-1, block_size)), bits, symmetric, scale_dtype)
        for part in weight.split(rows)
    ]
    values, scales, zeros = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    return Blocks(values, scales, None if symmetric else pack(zeros, bits), bits, block_size)


def as_int8(x: Float[Tensor, "rows in"], block_size: int) -> Float[Tensor, "rows in"]:
    """Activations as MatMulNBits rounds them at accuracy level 4: int8, a scale for each block.

    Args:
        x: what is multiplied by a quantised matrix, in float32.
        block_size: of that matrix.
    """
    blocks = x.unflatten(1, (-1, block_size))
    scale = blocks.abs().amax(2, keepdim=True) / 127
    rounded: Tensor = (blocks / _nonzero(scale)).round() * scale
    return rounded.flatten(1)


def pack(values: UInt8[Tensor, "... n"], bits: int) -> UInt8[Tensor, "... bytes"]:
    """Two values of 4 bits to a byte, the first in the low half; 8 bits stay as they are."""
    if bits == 8:
        return values
    even = torch.nn.functional.pad(values, (0, values.shape[-1] % 2))
    return even[..., 0::2] | (even[..., 1::2] << 4)


def unpack(values: UInt8[Tensor, "... bytes"], bits: int) -> UInt8[Tensor, "... n"]:
    """The inverse of :func:`pack`, with the padding."""
    if bits == 8:
        return values
    return torch.stack((values & 15, values >> 4), dim=-1).flatten(-2)


def _rounded(
    w: Float[Tensor, "out blocks size"], bits: int, symmetric: bool, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Packed values, scales and zero points of some rows."""
    levels, middle = 2**bits - 1, 2 ** (bits - 1)
    if symmetric:
        fitting = w.gather(2, w.abs().argmax(2, keepdim=True)) / -middle  # to the longer side
        zero = torch.full_like(fitting, middle)
        steps = middle
    else:
        low, high = w.amin(2, keepdim=True).clamp(max=0), w.amax(2, keepdim=True).clamp(min=0)
        fitting = (high - low) / levels
        zero = (-low / _nonzero(fitting)).round().clamp(0, levels)
        steps = levels
    ends = (-zero, levels - zero)
    searched = _search(w, fitting, steps, ends)
    best, q = _closer(w, (_stored(fitting, dtype), _stored(searched, dtype)), ends)
    return (
        pack((q + zero).to(torch.uint8), bits),
        best.to(dtype).squeeze(2),
        zero.to(torch.uint8).squeeze(2),
    )


def _search(w: Tensor, fitting: Tensor, steps: int, ends: tuple[Tensor, Tensor]) -> Tensor:
    """The scale of each block that leaves the least squared error, of those tried.

    For the codes q of a grid, the best scale is <w, q> / <q, q>, which leaves an error of
    |w|^2 - <w, q>^2 / <q, q>.
    """
    best, most = fitting, torch.full_like(fitting, -1)
    for slack in _SLACKS:
        q = _codes(w, fitting * (steps / (steps + slack)), ends)
        product = (w * q).sum(2, keepdim=True)
        scale = product / _nonzero(q.square_().sum(2, keepdim=True))
        won = product * scale
        better = won > most
        best, most = torch.where(better, scale, best), torch.where(better, won, most)
    return best


def _closer(
    w: Tensor, scales: tuple[Tensor, Tensor], ends: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Of two scales, the one whose blocks are closer to the weights, and its codes."""
    codes = [_codes(w, scale, ends) for scale in scales]
    errors = [
        (q * scale - w).square_().sum(2, keepdim=True)
        for q, scale in zip(codes, scales, strict=True)
    ]
    second = errors[1] < errors[0]
    return torch.where(second, scales[1], scales[0]), torch.where(second, codes[1], codes[0])


def _codes(w: Tensor, scale: Tensor, ends: tuple[Tensor, Tensor]) -> Tensor:
    """Whole numbers whose products with the scale are closest to the weights."""
    return (w / _nonzero(scale)).round_().clamp_(*ends)


def _stored(scale: Tensor, dtype: torch.dtype) -> Tensor:
    """As it is after storing: the kernel computes with that."""
    most = torch.finfo(dtype).max
    return scale.clamp(-most, most).to(dtype).float()


def _nonzero(scale: Tensor) -> Tensor:
    """A block of zeros has the scale 0, by which nothing is divided."""
    return torch.where(scale == 0, torch.ones_like(scale), scale)
