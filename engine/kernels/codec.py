"""Stored bits ↔ float, inside kernels.

A row of stored values is an array whose element type names the format: uint16 = bfloat16, int16 = float16,
float32, float64. `decode` widens one element (exact), `encode` rounds one float32 to nearest, ties to even; NaN is
stored in one form only (0x7fc0, 0x7e00, 0x7fc00000), because the bits of a NaN differ between compilers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload


@intrinsic
def float_bits(typingctx: Any, value: Any) -> Any:
    """float32 → its bits, uint32."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.IntType(32))

    return types.uint32(types.float32), codegen


@intrinsic
def bits_float(typingctx: Any, value: Any) -> Any:
    """uint32 → the float32 of these bits."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.uint32), codegen


@intrinsic
def half_float(typingctx: Any, value: Any) -> Any:
    """float16 bits (int16) → float32, exact."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fpext(builder.bitcast(args[0], ir.HalfType()), ir.FloatType())

    return types.float32(types.int16), codegen


@intrinsic
def float_half(typingctx: Any, value: Any) -> Any:
    """float32 → float16 bits (int16), to nearest even."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(builder.fptrunc(args[0], ir.HalfType()), ir.IntType(16))

    return types.int16(types.float32), codegen


def decode(value: Any) -> Any:
    """One stored element as a float (float64 for float64, else float32)."""
    raise TypeError("decode works inside kernels only")


def encode(value: Any, like: Any) -> Any:
    """One float rounded to the format of `like`, an element of the output row."""
    raise TypeError("encode works inside kernels only")


def magnitude(value: Any) -> Any:
    """One stored element without its sign, as an integer that grows with it; for float64 1 if NaN or Inf, else 0."""
    raise TypeError("magnitude works inside kernels only")


def infinity(value: Any) -> Any:
    """The `magnitude` of Inf in the format of `value`; those of NaN are larger, all others smaller."""
    raise TypeError("infinity works inside kernels only")


@overload(magnitude, strict=False)
def _magnitude(value: Any) -> Any:
    if value in (types.uint16, types.int16):
        return lambda value: np.uint16(np.uint16(value) & np.uint16(0x7FFF))
    if value == types.float32:
        return lambda value: float_bits(value) & np.uint32(0x7FFFFFFF)
    return lambda value: np.uint8(0 if value - value == 0 else 1)


@overload(infinity, strict=False)
def _infinity(value: Any) -> Any:
    if value == types.uint16:
        return lambda value: np.uint16(0x7F80)
    if value == types.int16:
        return lambda value: np.uint16(0x7C00)
    if value == types.float32:
        return lambda value: np.uint32(0x7F800000)
    return lambda value: np.uint8(1)


@overload(decode, strict=False)
def _decode(value: Any) -> Any:
    if value == types.uint16:
        return lambda value: bits_float(np.uint32(value) << np.uint32(16))
    if value == types.int16:
        return lambda value: half_float(value)
    return lambda value: value


@overload(encode, strict=False)
def _encode(value: Any, like: Any) -> Any:
    if like == types.uint16:
        return _encode_bf16
    if like == types.int16:
        return _encode_f16
    if like == types.float32:
        return _encode_f32
    return _encode_f64


def _encode_bf16(value: Any, like: Any) -> Any:
    single = np.float32(value)
    bits = float_bits(single)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    return np.uint16(rounded if single == single else np.uint32(0x7FC0))


def _encode_f16(value: Any, like: Any) -> Any:
    single = np.float32(value)
    return float_half(single) if single == single else np.int16(0x7E00)


def _encode_f32(value: Any, like: Any) -> Any:
    single = np.float32(value)
    return single if single == single else bits_float(np.uint32(0x7FC00000))


def _encode_f64(value: Any, like: Any) -> Any:
    return np.float64(value) if value == value else np.float64(np.nan)
