"""How an ONNX graph uses each constant; the operation that multiplies by it determines what its axes mean."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from layerscope.errors import Unreadable

MAX_GRAPH_DEPTH = 16  # levels of subgraphs
MAX_NAMES = 1 << 18  # names in nodes, plus constants
MAX_USES_PER_VALUE = 64  # operations followed per value
MAX_CHAIN_LENGTH = 16  # operations from a constant to the one that multiplies by it
GRAPH_ATTRIBUTE, GRAPHS_ATTRIBUTE, TENSOR_ATTRIBUTE = 5, 10, 4  # AttributeProto.AttributeType
AXIS_PRESERVING_OPERATIONS = ("Identity", "Cast", "CastLike", "QuantizeLinear")
RESHAPING_OPERATIONS = ("Reshape", "Squeeze", "Unsqueeze", "Flatten")
BIAS_SLOTS = {
    "Gemm": (2,),
    "Conv": (2,),
    "ConvTranspose": (2,),
    "LSTM": (3, 7),
    "GRU": (3,),
    "RNN": (3,),
    "FusedConv": (2,),
}
NORM_OPERATIONS = ("BatchNormalization", "LayerNormalization", "InstanceNormalization", "GroupNormalization",
         "SimplifiedLayerNormalization", "SkipLayerNormalization", "SkipSimplifiedLayerNormalization")  # fmt: skip


ValueKey = tuple[int, str]  # number of the graph that defines a name, and the name


@dataclass(frozen=True)
class Use:
    """One operation that uses a value as input."""

    op: str
    name: str
    slot: int  # position among the operation's inputs
    inputs: tuple[ValueKey, ...]
    outputs: tuple[ValueKey, ...]
    attributes: Mapping[str, Any]


@dataclass(frozen=True)
class Arrival:
    """How a constant reaches an operation."""

    use: Use
    order: tuple[int, ...]  # stored axis at each position
    dequantized: Use | None = None  # the DequantizeLinear in between
    order_then: tuple[int, ...] = ()  # the order at the DequantizeLinear
    reshaped: bool = False  # its axes are no longer the stored ones


@dataclass
class Constant:
    """A tensor in the file and the operation that uses it."""

    name: str  # unique
    key: ValueKey
    proto: Any
    initializer: bool  # True: of a graph; False: of a Constant node
    arrival: Arrival | None = None  # at the operation that determines its axes

    @property
    def use(self) -> Use | None:
        """The operation that determines its axes."""
        return self.arrival.use if self.arrival else None


def inline_functions(path: Any, model: Any) -> Any:
    """Replace calls of the model's own functions by their nodes, so that weights reach the operations that use them.

    :raises Unreadable: the functions call each other in a circle, or expand to too many nodes.
    """
    if not model.functions:
        return model
    import onnx.inliner

    bodies = {(function.domain, function.name): function.node for function in model.functions}
    sizes: dict[tuple[str, str], int] = {}
    active: set[tuple[str, str]] = set()

    def count(nodes: Any, depth: int) -> int:
        total = 0
        for node in nodes:
            key = (node.domain, node.op_type)
            total += 1 + (size(key, depth + 1) if key in bodies else 0)
            for attribute in node.attribute:
                for inner in (attribute.g, *attribute.graphs):
                    total += count(inner.node, depth + 1) if inner.node else 0
        if depth > MAX_GRAPH_DEPTH or total > MAX_NAMES:
            raise Unreadable(f"{path}: its functions nest or expand beyond the limits")
        return total

    def size(key: tuple[str, str], depth: int) -> int:
        if key in active:
            raise Unreadable(f"{path}: the function {key[1][:80]!r} calls itself")
        if key not in sizes:
            active.add(key)
            sizes[key] = count(bodies[key], depth)
            active.discard(key)
        return sizes[key]

    count(model.graph.node, 0)
    return onnx.inliner.inline_local_functions(model)


class Graph:
    """All constants of a model, including those in subgraphs, with the operations that use them.

    A name belongs to the graph that defines it: the branches of an If may use one name for different tensors.
    """

    def __init__(self, path: Any, proto: Any) -> None:
        self.path = path
        self.constants: dict[str, Constant] = {}
        self.by_key: dict[ValueKey, Constant] = {}
        self.uses: dict[ValueKey, list[Use]] = {}
        self.producers: dict[ValueKey, Use] = {}  # the operation that computes a value, at slot 0
        self.count, self.graphs = 0, 0
        self._collect(proto, (), 0)
        for constant in self.constants.values():
            self._find_arrival(constant)

    def value(self, key: ValueKey) -> Any:
        """The tensor of a constant, or None if the graph computes the value."""
        constant = self.by_key.get(key)
        return None if constant is None else constant.proto

    def _collect(self, graph: Any, outer_scopes: tuple[tuple[int, set[str]], ...], depth: int) -> None:
        if depth > MAX_GRAPH_DEPTH:
            raise Unreadable(f"{self.path}: subgraphs nest more than {MAX_GRAPH_DEPTH} levels deep, the limit")
        self.graphs += 1
        names = {tensor.name for tensor in graph.initializer} | {value.name for value in graph.input}
        for node in graph.node:
            self._count_names(1 + len(node.input) + len(node.output))
            names.update(node.output)
        scopes = ((self.graphs, names), *outer_scopes)
        for tensor in graph.initializer:
            self._add((self.graphs, tensor.name), tensor, True)
        number = self.graphs
        for node in graph.node:
            attributes = {}
            for attribute in node.attribute:
                if attribute.type == GRAPH_ATTRIBUTE:
                    self._collect(attribute.g, scopes, depth + 1)
                elif attribute.type == GRAPHS_ATTRIBUTE:
                    for inner in attribute.graphs:
                        self._collect(inner, scopes, depth + 1)
                elif attribute.type == TENSOR_ATTRIBUTE and node.op_type == "Constant" and node.output:
                    self._add((number, node.output[0]), attribute.t, False)
                elif attribute.type in (2, 3, 7):
                    attributes[attribute.name] = {2: attribute.i, 3: attribute.s, 7: attribute.ints}[attribute.type]
            inputs = tuple(_resolve_name(name, scopes) for name in node.input)
            outputs = tuple((number, name) for name in node.output)
            self.producers.update(dict.fromkeys(outputs, Use(node.op_type, node.name, 0, inputs, outputs, attributes)))
            for slot, key in enumerate(inputs):
                use = Use(node.op_type, node.name, slot, inputs, outputs, attributes)
                self.uses.setdefault(key, []).append(use)

    def _add(self, key: ValueKey, tensor: Any, initializer: bool) -> None:
        self._count_names(1)
        base = key[1] or "constant"
        name = base if base not in self.constants else f"{base}#{len(self.constants) + 1}"
        if name in self.constants:
            raise Unreadable(f"{self.path}: two constants are called {name[:80]!r}; names must be unique")
        constant = Constant(name, key, tensor, initializer)
        self.constants[name] = constant
        self.by_key.setdefault(key, constant)

    def _count_names(self, more: int) -> None:
        self.count += more
        if self.count > MAX_NAMES:
            raise Unreadable(f"{self.path}: its graphs contain more than {MAX_NAMES:,} names, the limit")

    def _find_arrival(self, constant: Constant) -> None:
        """Find the operation that determines the axes of a constant, following casts and transpositions."""
        for arrival in self._iterate_arrivals(constant.key, tuple(range(len(constant.proto.dims)))):
            if constant.arrival is None or _rank_evidence(arrival) > _rank_evidence(constant.arrival):
                constant.arrival = arrival

    def _iterate_arrivals(self, key: ValueKey, axes: tuple[int, ...]) -> Iterator[Arrival]:
        """Yield every operation that uses a value, directly or after a cast, transpose, dequantization or reshape."""
        pending: list[tuple[ValueKey, tuple[int, ...], Use | None, tuple[int, ...], bool]] = [
            (key, axes, None, (), False)
        ]
        visited: set[ValueKey] = set()
        while pending and len(visited) < MAX_CHAIN_LENGTH:
            current, order, dequantized, order_at_dequantization, reshaped = pending.pop(0)
            if current in visited:
                continue
            visited.add(current)
            for use in self.uses.get(current, [])[:MAX_USES_PER_VALUE]:
                yield Arrival(use, order, dequantized, order_at_dequantization, reshaped)
                if use.slot or not use.outputs:
                    continue
                output = use.outputs[0]
                if use.op in AXIS_PRESERVING_OPERATIONS:
                    pending.append((output, order, dequantized, order_at_dequantization, reshaped))
                elif use.op == "DequantizeLinear":
                    pending.append((output, order, use, order, reshaped))
                elif use.op in RESHAPING_OPERATIONS:
                    pending.append((output, order, dequantized, order_at_dequantization, True))
                elif use.op == "Transpose":
                    perm = tuple(use.attributes.get("perm") or reversed(range(len(order))))
                    if reshaped or sorted(perm) == list(range(len(order))):
                        order = order if reshaped else tuple(order[axis] for axis in perm)
                        pending.append((output, order, dequantized, order_at_dequantization, reshaped))


def _resolve_name(name: str, scopes: tuple[tuple[int, set[str]], ...]) -> ValueKey:
    """Find the graph that defines a name, searching outward from the innermost one."""
    return next(((number, name) for number, names in scopes if name in names), (0, name))


def _rank_evidence(arrival: Arrival) -> int:
    """Rank how much an operation reveals about its operand, from 3 (multiplies by it) to 0 (only passes it on)."""
    op = arrival.use.op
    if op in MULTIPLYING_OPERATIONS or op in NORM_OPERATIONS or op in BIAS_SLOTS:
        return 2 if arrival.reshaped else 3
    if op in (*AXIS_PRESERVING_OPERATIONS, *RESHAPING_OPERATIONS, "Transpose"):
        return 0
    return 1


MULTIPLYING_OPERATIONS = (
    "Gemm", "MatMul", "FusedMatMul", "Conv", "FusedConv", "ConvTranspose", "LSTM", "GRU", "RNN", "Gather", "Einsum",
    "QLinearConv", "QLinearMatMul", "QGemm", "ConvInteger", "MatMulInteger", "DynamicQuantizeMatMul", "MatMulNBits",
    "MatMulIntegerToFloat", "GatherBlockQuantized", "Attention", "QAttention", "DynamicQuantizeLSTM", "MatMulBnb4",
)  # fmt: skip
