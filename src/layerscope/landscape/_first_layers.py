"""Layers that see only the data: linear in their weights, so that one image per model gives all of a line or a plane.

Z(u, v) = (1−v)·Z_A + v·Z_C + u·(Z_B − Z_A): as many products as there are models, then one sum per point.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from layerscope.landscape._calls import Calls

WHOLE = 1e-9  # coefficients whose sum is nearer to 1 add up to it
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


class Choice(NamedTuple):
    """Which mixture of the images is given."""

    now: list[float]
    active: bool  # are there images at all?

    def __call__(self, coefficients: Sequence[float]) -> None:
        self.now[:] = coefficients


@contextmanager
def replaced(
    found: Sequence[Any], run: Callable[[Any], Any], inputs: Sequence[tuple[Any, int]], place: Callable[[int], None],
    points: int, whole: Callable[[Sequence[float]], Any] | None,
) -> Iterator[Choice]:  # fmt: skip
    """Inside, such layers give mixtures of their images; yields what chooses the mixture.

    What they give lasts until they are called again: a model's output may be a view of it.

    :param found: what :func:`fed_by` found.
    :param run: the model on inputs.
    :param inputs: (tensor, batch) each: all data that will be run through the model, and how many at once.
    :param place: puts the weights of the k-th point into the model.
    :param whole: puts a mixture of these layers' weights into it, where one is needed after all.
    """
    import torch

    size = sum(_bytes(run, module, inputs) for module in found) * (points + 3)
    if not found or size > MOST or points < 2:
        yield Choice([], False)
        return
    images: dict[Any, list[list[Any]]] = {module: [] for module in found}
    for k in range(points):
        place(k)
        every = [_images(run, found, x, batch) for x, batch in inputs]
        for module in found:
            images[module].append([each[module] for each in every])
    starts: dict[int, tuple[int, int]] = {}  # where a batch lies in memory → (which input, its first example)
    for number, (x, batch) in enumerate(inputs):
        for i in range(0, len(x), batch):
            starts.setdefault(x[i:].data_ptr(), (number, i))
    now: list[float] = [1.0] + [0.0] * (points - 1)

    def forward_of(module: Any) -> Callable[[Any], Any]:
        across = [image - first for first, image in zip(images[module][0], images[module][1], strict=True)]
        rows: dict[tuple[int, int, int], tuple[list[float], Any]] = {}  # what a row of a plane has in common
        given: dict[int, Any] = {}  # what is given for so many examples: it stays in the cache

        def forward(x: Any) -> Any:
            (number, first), count = starts.get(x.data_ptr(), (-1, 0)), len(x)
            if number < 0 or first + count > len(images[module][0][number]):
                if whole is not None:
                    whole(now)
                return type(module).forward(module, x)
            part = slice(first, first + count)
            if 1.0 in now and now.count(0.0) == points - 1:  # a corner: exactly its own image
                return images[module][now.index(1.0)][number][part].clone()
            if abs(sum(now) - 1) > WHOLE:
                parts = [image[number][part] for image in images[module]]
                return mix(parts, now, parts[0].clone())
            others, base = rows.get((number, first, count), ([math.nan], None))
            if others != now[2:]:
                parts = [image[number][part] for image in images[module]]
                base = mix(parts, [1 - sum(now[2:]), 0.0, *now[2:]], parts[0].clone() if base is None else base)
                rows[number, first, count] = list(now[2:]), base
            if count not in given:
                given[count] = base.clone()
            return torch.add(base, across[number][part], alpha=now[1], out=given[count])

        return forward

    try:
        for module in found:
            module.forward = forward_of(module)
        yield Choice(now, True)
    finally:
        for module in found:
            module.__dict__.pop("forward", None)


def fed_by(model: Any, run: Callable[[Any], Any], x: Any) -> list[Any]:
    """Linear layers and convolutions that are called once, on the data themselves, with a weight of their own and no
    hooks; seen with two examples and with three, so that two frames are not taken for two examples."""
    one, other = (_fed_by(model, run, x[: min(count, len(x))]) for count in (2, 3))
    return [module for module in one if module in other]


def _fed_by(model: Any, run: Callable[[Any], Any], part: Any) -> list[Any]:
    from torch import nn

    calls, fed = dict[Any, int](), list[Any]()
    hooked = {module for module in model.modules() if module._forward_hooks or module._forward_pre_hooks}

    def look(module: Any, arguments: Any, out: Any) -> None:
        calls[module] = calls.get(module, 0) + 1
        same = bool(arguments) and arguments[0].data_ptr() == part.data_ptr() and arguments[0].numel() == part.numel()
        if same and len(arguments[0]) == len(out) == len(part):  # rows are examples, not tokens or frames
            fed.append(module)

    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    handles = [module.register_forward_hook(look) for module in model.modules() if type(module) in kinds]
    try:
        takers = Calls.seen(run, part).takers()
    finally:
        for handle in handles:
            handle.remove()
    return [
        module for module in dict.fromkeys(fed)
        if calls[module] == 1 and module not in hooked and "weight" in module._parameters
        and all(takers.get(id(p), 0) <= 1 for p in module.parameters())
    ]  # fmt: skip


def _images(run: Callable[[Any], Any], modules: Sequence[Any], x: Any, batch: int) -> dict[Any, Any]:
    """What these layers make of all examples, whatever comes behind them."""
    import torch

    parts: dict[Any, list[Any]] = {module: [] for module in modules}
    handles = [
        module.register_forward_hook(lambda module, _, out: parts[module].append(out.clone())) for module in modules
    ]
    try:
        for part in x.split(batch):
            run(part)
    finally:
        for handle in handles:
            handle.remove()
    return {module: _last(torch.cat(found)) for module, found in parts.items()}


def _last(image: Any) -> Any:
    """With channels last, where there are images: what comes behind is faster."""
    import torch

    return image.contiguous(memory_format=torch.channels_last) if image.dim() == 4 else image


def _bytes(run: Callable[[Any], Any], module: Any, inputs: Sequence[tuple[Any, int]]) -> int:
    x, _ = inputs[0]
    image = _images(run, [module], x[:2], 2)[module]
    return int(image.numel() * image.element_size() * sum(len(each) for each, _ in inputs)) // len(x[:2])
