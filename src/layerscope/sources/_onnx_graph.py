"""What an ONNX graph does with each constant: the operation that multiplies by it says what its axes mean."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from layerscope.errors import Unreadable

DEEPEST = 16  # graphs in graphs
MOST = 1 << 20  # nodes and constants
LONGEST_CHAIN = 16  # operations from a constant to the one that multiplies by it
GRAPH, GRAPHS, TENSOR = 5, 10, 4  # AttributeProto.AttributeType
SAME_AXES = ("Identity", "Cast", "CastLike", "QuantizeLinear")
BIASES = {
    "Gemm": (2,),
    "Conv": (2,),
    "ConvTranspose": (2,),
    "LSTM": (3, 7),
    "GRU": (3,),
    "RNN": (3,),
    "FusedConv": (2,),
}
NORMS = ("BatchNormalization", "LayerNormalization", "InstanceNormalization", "GroupNormalization",
         "SimplifiedLayerNormalization", "SkipLayerNormalization", "SkipSimplifiedLayerNormalization")  # fmt: skip


@dataclass
class Use:
    """One operation that takes a value."""

    op: str
    domain: str
    name: str
    slot: int  # which of its inputs
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any] = field(default_factory=dict)


@dataclass
class Constant:
    """A tensor of the file, and what is done with it."""

    name: str
    proto: Any
    initializer: bool  # of a graph, rather than a Constant node's
    use: Use | None = None  # the operation that tells its axes
    order: tuple[int, ...] = ()  # of its axes when it gets there
    dequantised: Use | None = None  # the DequantizeLinear on the way


class Graph:
    """All constants of a model, subgraphs included, each with what it is used for."""

    def __init__(self, path: Any, proto: Any) -> None:
        self.path = path
        self.constants: dict[str, Constant] = {}
        self.uses: dict[str, list[Use]] = {}
        self.count = 0
        self._collect(proto, 0)
        for constant in self.constants.values():
            self._follow(constant)

    def value(self, name: str) -> Any:
        """The tensor of a constant, or None where the graph computes it."""
        found = self.constants.get(name)
        return None if found is None else found.proto

    def _collect(self, graph: Any, depth: int) -> None:
        if depth > DEEPEST:
            raise Unreadable(f"{self.path}: graphs nested beyond any use")
        for tensor in graph.initializer:
            self._add(tensor.name, tensor, True)
        for node in graph.node:
            attributes = {}
            for attribute in node.attribute:
                if attribute.type == GRAPH:
                    self._collect(attribute.g, depth + 1)
                elif attribute.type == GRAPHS:
                    for inner in attribute.graphs:
                        self._collect(inner, depth + 1)
                elif attribute.type == TENSOR and node.op_type == "Constant" and node.output:
                    self._add(node.output[0], attribute.t, False)
                elif attribute.type in (2, 3, 7):
                    attributes[attribute.name] = {2: attribute.i, 3: attribute.s, 7: attribute.ints}[attribute.type]
            inputs, outputs = tuple(node.input), tuple(node.output)
            for slot, name in enumerate(inputs):
                self._counted()
                use = Use(node.op_type, node.domain, node.name, slot, inputs, outputs, attributes)
                self.uses.setdefault(name, []).append(use)

    def _add(self, name: str, tensor: Any, initializer: bool) -> None:
        self._counted()
        known, again = name or "constant", 1
        while known in self.constants:  # branches may use a name again
            again += 1
            known = f"{name}#{again}"
        self.constants[known] = Constant(known, tensor, initializer)

    def _counted(self) -> None:
        self.count += 1
        if self.count > MOST:
            raise Unreadable(f"{self.path}: more than {MOST:,} nodes and constants")

    def _follow(self, constant: Constant) -> None:
        """Find the operation that says what the axes of a constant are, through casts and transpositions."""
        axes = tuple(range(len(constant.proto.dims)))
        for use, order, dequantised in self._reached(constant.name.partition("#")[0], axes, None, 0):
            if constant.use is None or _tells(use) > _tells(constant.use):
                constant.use, constant.order, constant.dequantised = use, order, dequantised

    def _reached(
        self, name: str, order: tuple[int, ...], dequantised: Use | None, depth: int
    ) -> Iterator[tuple[Use, tuple[int, ...], Use | None]]:
        for use in self.uses.get(name, [])[:64] if depth < LONGEST_CHAIN else []:
            through = use.slot == 0 and use.outputs
            if through and use.op in SAME_AXES:
                yield from self._reached(use.outputs[0], order, dequantised, depth + 1)
            elif through and use.op == "DequantizeLinear":
                yield use, order, use
                yield from self._reached(use.outputs[0], order, use, depth + 1)
            elif through and use.op == "Transpose":
                perm = tuple(use.attributes.get("perm") or reversed(range(len(order))))
                if sorted(perm) == list(range(len(order))):
                    yield from self._reached(
                        use.outputs[0], tuple(order[axis] for axis in perm), dequantised, depth + 1
                    )
            else:
                yield use, order, dequantised


def _tells(use: Use) -> int:
    """How much an operation says about its operand: what multiplies by it most, what reshapes it least."""
    if use.op in MULTIPLIES or use.op in BIASES or use.op in NORMS:
        return 3
    return 1 if use.op != "DequantizeLinear" else 0


MULTIPLIES = (
    "Gemm", "MatMul", "FusedMatMul", "Conv", "FusedConv", "ConvTranspose", "LSTM", "GRU", "RNN", "Gather", "Einsum",
    "QLinearConv", "QLinearMatMul", "QGemm", "ConvInteger", "MatMulInteger", "DynamicQuantizeMatMul", "MatMulNBits",
    "MatMulIntegerToFloat", "GatherBlockQuantized", "Attention", "QAttention", "DynamicQuantizeLSTM", "MatMulBnb4",
)  # fmt: skip
