"""Layers that see only the data: linear in their weights, so that one image per model gives all of a line or a plane.

Z(u, v) = (1−u−v)·Z_A + u·Z_B + v·Z_C: as many products as there are models, then sums alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

MOST = 1 << 29  # bytes that the images may take


def mix(vectors: Sequence[Any], coefficients: Sequence[float], out: Any) -> Any:
    """Σ cᵢ·vectorᵢ into ``out``; what has no part does not count, and a whole part is exact."""
    used = [(c, vector) for c, vector in zip(coefficients, vectors, strict=True) if c != 0.0]
    if not used:
        return out.zero_()
    out.copy_(used[0][1])
    if used[0][0] != 1.0:
        out.mul_(used[0][0])
    for c, vector in used[1:]:
        out.add_(vector, alpha=c)
    return out


@contextmanager
def replaced(
    model: Any, inputs: Sequence[tuple[Any, int]], place: Callable[[int], None], points: int
) -> Iterator[Callable[[Sequence[float]], None]]:
    """Inside, such layers give mixtures of their images; yields what chooses the mixture.

    :param inputs: (tensor, batch) each: all data that will be run through the model, and how many at once.
    :param place: puts the weights of the k-th point into the model.
    """
    found = _fed_by(model, inputs[0][0])
    size = sum(_bytes(model, module, inputs) for module in found) * (points + 1)
    if not found or size > MOST or points < 2:
        yield lambda _: None
        return
    images: dict[Any, list[list[Any]]] = {module: [] for module in found}
    for k in range(points):
        place(k)
        every = [_images(model, found, x, batch) for x, batch in inputs]
        for module in found:
            images[module].append([each[module] for each in every])
    mixed = {module: [first.clone() for first in images[module][0]] for module in found}
    starts: dict[int, tuple[int, int]] = {}  # where a batch lies in memory → (which input, its first example)
    for number, (x, batch) in enumerate(inputs):
        for i in range(0, len(x), batch):
            starts.setdefault(x[i:].data_ptr(), (number, i))

    def choose(coefficients: Sequence[float]) -> None:
        for module in found:
            for number, out in enumerate(mixed[module]):
                mix([image[number] for image in images[module]], coefficients, out)

    def forward_of(module: Any) -> Callable[[Any], Any]:
        def forward(x: Any) -> Any:
            number, first = starts.get(x.data_ptr(), (-1, 0))
            if number < 0 or first + len(x) > len(mixed[module][number]):
                return type(module).forward(module, x)
            return mixed[module][number][first : first + len(x)].clone()  # an activation in place may follow

        return forward

    try:
        for module in found:
            module.forward = forward_of(module)
        yield choose
    finally:
        for module in found:
            module.__dict__.pop("forward", None)


def _fed_by(model: Any, x: Any) -> list[Any]:
    """Linear layers and convolutions that are called once, on the data themselves, with a weight of their own."""
    from torch import nn

    part, calls, fed = x[: min(2, len(x))], dict[Any, int](), list[Any]()

    def look(module: Any, arguments: Any) -> None:
        calls[module] = calls.get(module, 0) + 1
        if arguments and arguments[0].data_ptr() == part.data_ptr() and arguments[0].numel() == part.numel():
            fed.append(module)

    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    handles = [module.register_forward_pre_hook(look) for module in model.modules() if type(module) in kinds]
    try:
        model(part)
    finally:
        for handle in handles:
            handle.remove()
    weights = [id(module.weight) for module in model.modules() if hasattr(module, "weight")]
    return [module for module in dict.fromkeys(fed) if calls[module] == 1 and weights.count(id(module.weight)) == 1]


def _images(model: Any, modules: Sequence[Any], x: Any, batch: int) -> dict[Any, Any]:
    """What these layers make of all examples, whatever comes behind them."""
    import torch

    parts: dict[Any, list[Any]] = {module: [] for module in modules}
    handles = [
        module.register_forward_hook(lambda module, _, out: parts[module].append(out.clone())) for module in modules
    ]
    try:
        for part in x.split(batch):
            model(part)
    finally:
        for handle in handles:
            handle.remove()
    return {module: torch.cat(found) for module, found in parts.items()}


def _bytes(model: Any, module: Any, inputs: Sequence[tuple[Any, int]]) -> int:
    x, _ = inputs[0]
    image = _images(model, [module], x[:1], 1)[module]
    return int(image.numel() * image.element_size() * sum(len(each) for each, _ in inputs))
