"""How ONNX operations dequantize their integer operands: (code − zero point) · scale, and the blocks of MatMulNBits.

Sources: the ONNX operators QLinearConv, QLinearMatMul, MatMulInteger, ConvInteger and DequantizeLinear; the contributed
operators of ONNX Runtime (com.microsoft), which its dynamic and block-wise quantization writes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from layerscope.array_types import Array
    from layerscope.sources.readers.onnx_graph import Arrival, Graph, Use, ValueKey

NO_INPUT = (0, "")
ReadTensor = Callable[[Any], "Array"]  # from the protobuf of a tensor


@dataclass(frozen=True)
class CodeSlots:
    """Where an operation takes codes, with their scale and zero point, and the axis with a scale per entry."""

    scale: int | None  # input slot; None: a factor of the output
    zero: int
    axis: int


CODE_SLOTS: dict[str, dict[int, CodeSlots]] = {  # operation → input slot with codes → how they are dequantized
    "QLinearConv": {3: CodeSlots(4, 5, 0)},
    "QLinearMatMul": {0: CodeSlots(1, 2, -2), 3: CodeSlots(4, 5, -1)},
    "QGemm": {0: CodeSlots(1, 2, 1), 3: CodeSlots(4, 5, 1)},
    "MatMulInteger": {0: CodeSlots(None, 2, -2), 1: CodeSlots(None, 3, -1)},
    "ConvInteger": {1: CodeSlots(None, 3, 0)},
    "DynamicQuantizeMatMul": {1: CodeSlots(2, 3, -1)},
    "MatMulIntegerToFloat": {1: CodeSlots(3, 5, -1)},
}
BLOCKWISE = "MatMulNBits"  # codes (N, blocks, bytes) of a matrix (N, K), N outputs
BLOCKWISE_BITS = (2, 4, 8)
MAX_CASTS = 4  # between an integer product and its scale


@dataclass(frozen=True)
class Dequantization:
    """Scale and zero point of the codes in one constant, or why they are not known."""

    scale: Any = None  # protobufs
    zero: Any = None
    axis: int = 0
    block: int = 0
    fault: str = ""

    def prepare(self, read_codes: Callable[[], Array], read: ReadTensor) -> Callable[[], Array]:
        """Return the function that reads the weight in float32."""

        def dequantize() -> Array:
            codes = np.asarray(read_codes()).astype(np.float32)
            if self.zero is not None:
                codes -= _broadcast_scales(read(self.zero).astype(np.float32), codes.shape, self.axis, self.block)
            return codes * _broadcast_scales(read(self.scale).astype(np.float32), codes.shape, self.axis, self.block)

        return dequantize


def dequantization_of(graph: Graph, arrival: Arrival) -> Dequantization:
    """Find scale and zero point of the codes that arrive at an operation, directly or through DequantizeLinear."""
    use, order = arrival.dequantized or arrival.use, arrival.order_then or arrival.order
    if arrival.dequantized is not None:
        slots = CodeSlots(1, 2, int(use.attributes.get("axis", 1)))
        block = int(use.attributes.get("block_size", 0))
    else:
        slots, block = CODE_SLOTS[use.op][use.slot], 0
    axis = slots.axis
    if use.op == "QGemm" and use.attributes.get("transB"):
        axis = 0
    if order and -len(order) <= axis < len(order):
        axis = order[axis]  # the stored axis
    zero_key = _input(use, slots.zero)
    scale = _scale_of_output(graph, use) if slots.scale is None else graph.value(_input(use, slots.scale))
    zero = graph.value(zero_key)
    if scale is None or (zero_key[1] and zero is None):
        return Dequantization(fault=f"quantized with {use.op}, but its scales are computed in the graph")
    return Dequantization(scale, zero, axis, block)


def blockwise_matrix(graph: Graph, use: Use, shape: tuple[int, ...]) -> tuple[tuple[int, int], str]:
    """Shape (N, K) of the matrix in the codes of MatMulNBits, and why it cannot be decoded, or ""."""
    columns, rows, bits, block = (int(use.attributes.get(name, 0)) for name in ("K", "N", "bits", "block_size"))
    bits = bits or 4
    fits = bits in BLOCKWISE_BITS and block > 0 and rows > 0 and columns > 0
    if not fits or shape != (rows, -(-columns // block), block * bits // 8):
        return (rows, columns), f"quantized with {BLOCKWISE}, but its codes of shape {shape} do not fit its attributes"
    if graph.value(_input(use, 2)) is None:
        return (rows, columns), f"quantized with {BLOCKWISE}, but its scales are computed in the graph"
    return (rows, columns), ""


def decode_blockwise(graph: Graph, use: Use, read_codes: Callable[[], Array], read: ReadTensor) -> Array:
    """The matrix (N, K) of MatMulNBits in float32: (code − zero point) · scale, one of each per block of a row."""
    columns, block = int(use.attributes["K"]), int(use.attributes["block_size"])
    bits = int(use.attributes.get("bits", 4))
    codes = _unpack(np.asarray(read_codes()), bits)  # (N, blocks, block)
    rows, blocks, _ = codes.shape
    scales = read(graph.value(_input(use, 2))).astype(np.float32).reshape(rows, blocks)
    zero_proto, order_proto = graph.value(_input(use, 3)), graph.value(_input(use, 4))
    zeros = np.full((rows, blocks), 2 ** (bits - 1), np.float32)
    if zero_proto is not None:
        stored = read(zero_proto)
        packed = _unpack(stored.reshape(rows, -1), bits)[:, :blocks] if stored.dtype == np.uint8 else stored
        zeros = packed.astype(np.float32).reshape(rows, blocks)
    groups = np.arange(blocks * block) // block
    if order_proto is not None:
        groups = np.resize(read(order_proto).astype(np.int64), blocks * block)
        if groups.min() < 0 or groups.max() >= blocks:
            raise ValueError("the group index does not fit the number of blocks")
    flat = codes.reshape(rows, -1).astype(np.float32)
    matrix: Array = ((flat - zeros[:, groups]) * scales[:, groups])[:, :columns]
    return matrix


def _unpack(codes: Array, bits: int) -> Array:
    """Codes of one byte each from bytes that hold several, the lowest bits first."""
    per_byte = 8 // bits
    shifts = np.arange(per_byte, dtype=np.uint8) * bits
    unpacked: Array = (codes[..., None] >> shifts) & (2**bits - 1)
    return unpacked.reshape(*codes.shape[:-1], codes.shape[-1] * per_byte)


def _input(use: Use, slot: int) -> ValueKey:
    return use.inputs[slot] if slot < len(use.inputs) else NO_INPUT


def _scale_of_output(graph: Graph, use: Use) -> Any:
    """The scale of integer codes whose product is multiplied by (scale of the inputs) · (their scale), or None."""
    value = use.outputs[0] if use.outputs else NO_INPUT
    for _ in range(MAX_CASTS):
        after = graph.uses.get(value, [])
        product = next((other for other in after if other.op == "Mul" and len(other.inputs) == 2), None)
        if product is not None:
            maker = graph.producers.get(product.inputs[1 - product.slot])
            if maker is None or maker.op != "Mul":
                return None
            constants = [graph.value(key) for key in maker.inputs if graph.value(key) is not None]
            return constants[0] if len(constants) == 1 else None
        cast = next((other for other in after if other.op == "Cast" and other.outputs), None)
        if cast is None:
            return None
        value = cast.outputs[0]
    return None


def _broadcast_scales(values: Array, shape: tuple[int, ...], axis: int, block: int) -> Array:
    """Reshape scales to multiply a tensor: one for all of it, one per index of an axis, or one per block of an axis."""
    if values.size == 1:
        return values.reshape(())
    if block:
        return np.repeat(values, block, axis=axis)[tuple(slice(0, n) for n in shape)]
    if values.size != shape[axis] or max(values.shape) != values.size:
        raise ValueError(f"scales of shape {values.shape} do not fit axis {axis} of a tensor of shape {shape}")
    broadcast_shape = [1] * len(shape)
    broadcast_shape[axis] = values.size
    return values.reshape(broadcast_shape)
