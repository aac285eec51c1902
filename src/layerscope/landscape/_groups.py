"""Which axes of a network's tensors number the same hidden units, seen while the network runs once.

Permuting a group on all its axes leaves the function as it is. An operation that is not understood fixes the groups
that go through it: they are never permuted, and nothing is guessed. What is seen is every call of a torch function, so
that control flow and functional layers are no obstacle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from layerscope.errors import Unreadable
from layerscope.sources._strangers import told


@dataclass(frozen=True)
class Place:
    """One axis of one tensor: as many blocks of entries as the group has units."""

    tensor: str
    axis: int


@dataclass
class Group:
    """Hidden units that have one order."""

    units: int
    places: list[Place] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)  # weights whose output they are
    fixed: str = ""  # why they cannot be permuted
    normed: list[str] = field(default_factory=list)  # of these weights, those whose output goes straight into a norm
    homogeneous: bool = True  # is all that they go through unchanged by scale, x → c·x for c > 0?


SAME = {
    "relu", "relu_", "gelu", "silu", "tanh", "sigmoid", "dropout", "dropout2d", "elu", "leaky_relu", "relu6",
    "hardtanh", "hardswish", "softplus", "mish", "contiguous", "clone", "detach", "to", "float", "double",
    "max_pool1d", "max_pool2d", "avg_pool1d", "avg_pool2d", "adaptive_avg_pool1d", "adaptive_avg_pool2d",
    "adaptive_max_pool2d", "__getitem__", "mean", "amax",
}  # fmt: skip
SHAPED = {"flatten", "view", "reshape", "squeeze"}
HOMOGENEOUS = {
    "relu", "relu_", "leaky_relu", "contiguous", "clone", "detach", "to", "float", "double", "max_pool1d",
    "max_pool2d", "avg_pool1d", "avg_pool2d", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_max_pool2d",
    "__getitem__", "mean", "amax", "dropout", "dropout2d",
}  # fmt: skip
ADDED = {"add", "add_", "__add__", "__iadd__", "__radd__"}
MAPS = {"linear": 0, "conv1d": 1, "conv2d": 2, "conv3d": 3}  # name → axes of positions


def groups_of(model: Any, x: Any) -> list[Group]:
    """The groups of a model, in the order in which data meet them, those that are fixed too.

    :raises Unreadable: the model raises.
    """
    import torch
    from torch.overrides import TorchFunctionMode

    seen = _Seen(model, x)

    class Watch(TorchFunctionMode):  # type: ignore[misc]
        """Tells of every call of a torch function."""

        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            seen.call(getattr(func, "__name__", str(func)), [*args, *(kwargs or {}).values()], result)
            return result

    with torch.no_grad(), told("the model"), Watch():
        output = model(x)
    if not isinstance(output, torch.Tensor):
        raise Unreadable(f"the model returns a {type(output).__name__}, not a tensor")
    return seen.groups(output)


class _Seen:
    """Groups of the features of each tensor that was met."""

    def __init__(self, model: Any, x: Any) -> None:
        state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        self.names = {id(tensor): name for name, tensor in state.items()}
        self.found: list[Group] = []
        self.parent: list[int] = []
        self.of: dict[int, tuple[int, int]] = {}  # tensor → (group, entries per unit on the axis of features)
        self.alive: list[Any] = [*state.values()]  # ids are those of tensors that are
        self.used: set[str] = set()
        self.locked: set[str] = set()  # tensors that something else reads too: embeddings, a second use
        self.raw: dict[int, str] = {}  # tensors that come straight out of a linear map → its weight
        self._new_tensor(x, "the model's input")

    def groups(self, output: Any) -> list[Group]:
        """All of them, what reaches the output being fixed."""
        if id(output) in self.of:
            self._fix(self.of[id(output)][0], "the model's output")
        merged: dict[int, Group] = {}
        for number, group in enumerate(self.found):
            into = merged.setdefault(self._root(number), Group(group.units))
            into.places += [place for place in group.places if place not in into.places]
            into.outputs += group.outputs
            into.fixed = into.fixed or group.fixed
            into.normed += group.normed
            into.homogeneous = into.homogeneous and group.homogeneous
        for into in merged.values():
            shared = [place.tensor for place in into.places if place.tensor in self.locked]
            into.fixed = into.fixed or (f"{shared[0]} is used elsewhere too" if shared else "")
        return [group for group in merged.values() if group.places]

    def call(self, name: str, arguments: Sequence[Any], result: Any) -> None:
        """A torch function was called."""
        import torch

        flat = [each for item in arguments for each in (item if isinstance(item, list | tuple) else [item])]
        tensors = [each for each in flat if isinstance(each, torch.Tensor)]
        known = [each for each in tensors if id(each) in self.of]
        made = [each for each in (result if isinstance(result, tuple | list) else [result])
                if isinstance(each, torch.Tensor)]  # fmt: skip
        if not known or not made:
            return
        first = tensors[0] if tensors else None
        if isinstance(result, torch.Tensor) and id(first) in self.of:
            where = self._understood(name, first, arguments, tensors, known, result)
            if where is not None:
                self._keep(result, where)
                return
        for each in known:
            self._fix(self.of[id(each)][0], name)
        self.locked.update(self.names[id(each)] for each in tensors if id(each) in self.names)
        for each in made:
            self._new_tensor(each, name)

    def _understood(
        self, name: str, first: Any, arguments: Sequence[Any], tensors: list[Any], known: list[Any], result: Any
    ) -> tuple[int, int] | None:
        into = self._read(name, first)
        if name in MAPS and len(tensors) > 1 and id(tensors[1]) in self.names:
            return self._map(name, tensors, into, result)
        if name in ("batch_norm", "layer_norm", "group_norm") and len(known) == 1:
            return self._norm(name, arguments, tensors, into)
        if name in ADDED and len(tensors) == 2 and len(known) == 2:
            other = self._read(name, tensors[1])
            if into[1] == other[1] and tensors[0].shape == tensors[1].shape:
                self._join(into[0], other[0])
                return into
        if len(tensors) > 1 or result.dim() < 2:
            return None
        units = self.found[into[0]].units
        if name == "__getitem__" and not _sliced(arguments[1]):
            return None
        if name in SAME:
            if name not in HOMOGENEOUS:
                self.found[into[0]].homogeneous = False
            axis = 1 if first.dim() in (3, 4, 5) and first.shape[1] == units and into[1] == 1 else first.dim() - 1
            pooled = result.dim() == 2 and axis == 1
            same = result.dim() > axis and result.shape[axis] == first.shape[axis] and result.dim() == first.dim()
            return into if same or (pooled and result.shape[1] == units) else None
        if name in SHAPED and result.dim() == 2 and result.shape[0] == first.shape[0] and first.dim() > 1:
            whole = first.shape[1] == units * (into[1] if first.dim() == 2 else 1) and result.shape[1] % units == 0
            return (into[0], result.shape[1] // units) if whole else None
        return None

    def _read(self, name: str, tensor: Any) -> tuple[int, int]:
        """The group of a tensor's features. Of one that keeps its order the operation says which axis they are on."""
        number, block = self.of[id(tensor)]
        group = self.found[number]
        last = name in ("linear", "layer_norm") or (name in ADDED and tensor.dim() < 4)
        width = tensor.shape[-1] if last else tensor.shape[1] if tensor.dim() > 1 else 1
        if group.fixed and not group.places and group.units * block != width:
            self._keep(tensor, (self._new(int(width), group.fixed), 1))
        return self.of[id(tensor)]

    def _map(self, name: str, tensors: list[Any], into: tuple[int, int], result: Any) -> tuple[int, int] | None:
        """A linear layer or a convolution: it reads one group and makes another."""
        x, weight = tensors[:2]
        called = self.names[id(weight)]
        features = x.shape[-1] if name == "linear" else x.shape[1]
        if called in self.used or weight.shape[1] != features or features != self.found[into[0]].units * into[1]:
            return None  # shared, or in groups
        self.used.add(called)
        self.found[into[0]].places.append(Place(called, 1))
        out = self._new(weight.shape[0])
        self.found[out].places.append(Place(called, 0))
        self.found[out].outputs.append(called)
        if len(tensors) > 2 and id(tensors[2]) in self.names:
            self.found[out].places.append(Place(self.names[id(tensors[2])], 0))
        self.raw[id(result)] = called
        return out, 1

    def _norm(
        self, name: str, arguments: Sequence[Any], tensors: list[Any], into: tuple[int, int]
    ) -> tuple[int, int] | None:
        group = self.found[into[0]]
        own = [tensor for tensor in tensors[1:] if id(tensor) in self.names]
        in_groups = name == "group_norm" and next((a for a in arguments if isinstance(a, int)), 0) not in (
            1,
            group.units,
        )
        if in_groups or into[1] != 1 or any(tuple(tensor.shape) != (group.units,) for tensor in own):
            return None
        group.places += [Place(self.names[id(tensor)], 0) for tensor in own]
        if name == "batch_norm" and id(tensors[0]) in self.raw:
            group.normed.append(self.raw[id(tensors[0])])
        group.homogeneous = False
        return into

    def _keep(self, tensor: Any, where: tuple[int, int]) -> None:
        self.of[id(tensor)] = where
        self.alive.append(tensor)

    def _new_tensor(self, tensor: Any, why: str) -> None:
        features = tensor.shape[1] if tensor.dim() > 2 else tensor.shape[-1] if tensor.dim() else 1
        self._keep(tensor, (self._new(int(features), why), 1))

    def _new(self, units: int, fixed: str = "") -> int:
        self.parent.append(len(self.found))
        self.found.append(Group(units, fixed=fixed))
        return len(self.found) - 1

    def _root(self, number: int) -> int:
        while self.parent[number] != number:
            number = self.parent[number]
        return number

    def _join(self, a: int, b: int) -> None:
        one, other = sorted((self._root(a), self._root(b)))
        if self.found[one].units == self.found[other].units:
            self.parent[other] = one
        else:
            self._fix(a, "a sum of different widths")
            self._fix(b, "a sum of different widths")

    def _fix(self, number: int, why: str) -> None:
        self.found[number].fixed = self.found[number].fixed or why


def _sliced(index: Any) -> bool:
    """Does an index only cut, and never reorder?"""
    parts = index if isinstance(index, tuple) else (index,)
    return all(part is None or part is Ellipsis or isinstance(part, slice | int) for part in parts)
