"""Layers that see only the data: linear in their weights, so that one image per model gives all of a line or a plane.

Z(u, v) = (1−v)·Z_A + v·Z_C + u·(Z_B − Z_A): as many products as there are models, then one sum per point.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from layerscope.errors import LayerscopeError
from layerscope.landscape import _torch
from layerscope.landscape._calls import Calls, hooked

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


@dataclass
class Choice:
    """Which mixture of the images is given."""

    now: list[float]
    active: bool  # are there images, and are they given?
    given: Any = None  # what the model runs on: (where it lies, its shape)

    def __call__(self, coefficients: Sequence[float]) -> None:
        self.now[:] = coefficients

    def agrees(self, run: Callable[[], Any]) -> bool:
        """Does a run with the images give what one without them does?"""
        found = []
        for self.active in (False, True):
            try:
                found.append(run().clone())
            except LayerscopeError:
                return False
        return _torch.near(*found)

    def runs_on(self, x: Any) -> None:
        """The model is about to run on this."""
        self.given = _key(x)


def _key(x: Any) -> tuple[int, tuple[int, ...]]:
    return x.data_ptr(), tuple(x.shape)


@contextmanager
def replaced(
    found: Sequence[Any], run: Callable[[Any], Any], inputs: Sequence[tuple[Any, int]], place: Callable[[int], None],
    points: int, whole: Callable[[Sequence[float]], Any],
) -> Iterator[Choice]:  # fmt: skip
    """Inside, such layers give mixtures of their images; yields what chooses the mixture.

    What they give lasts until they are called again: a model's output may be a view of it.

    :param found: what :func:`fed_by` found.
    :param run: the model on inputs.
    :param inputs: (tensor, batch) each: all data that will be run through the model, and how many at once.
    :param place: puts the weights of the k-th point into the model.
    :param whole: puts a mixture of these layers' weights into it, where one is needed after all.
    """
    outer = {module: module.__dict__.pop("forward", None) for module in found}  # of a walk around this one
    choice = Choice([1.0] + [0.0] * (points - 1), False)
    images = _images_of(found, run, inputs, place, points) if points > 1 else None
    try:
        for module, image in (images or {}).items():
            module.forward = _forward_of(module, image, _starts(inputs), choice, whole)
        choice.active = bool(images)
        yield choice
    finally:
        for module, forward in outer.items():
            module.__dict__.pop("forward", None)
            if forward is not None:
                module.forward = forward


def _head(one: Any, other: Any) -> bool:
    """Is one input the first examples of another?"""
    apart = one is not other and len(one) <= len(other) and one.stride() == other.stride()
    return apart and _key(one) == _key(other[: len(one)])


def _starts(inputs: Sequence[tuple[Any, int]]) -> dict[Any, tuple[int, int]]:
    """What a model runs on → (which input it is of, its first example)."""
    starts: dict[Any, tuple[int, int]] = {}
    for number, (x, batch) in enumerate(inputs):
        for i in range(0, len(x), batch):
            starts.setdefault(_key(x[i : i + batch]), (number, i))
    return starts


def _forward_of(
    module: Any, images: Sequence[Sequence[Any]], starts: dict[Any, tuple[int, int]], choice: Choice,
    whole: Callable[[Sequence[float]], Any],
) -> Callable[[Any], Any]:  # fmt: skip
    """
    :param images: of each point, of each input.
    """
    import torch

    across = [image - first for first, image in zip(images[0], images[1], strict=True)]
    rows: dict[tuple[int, int, int], tuple[list[float], Any]] = {}  # what a row of a plane has in common
    buffers: dict[int, Any] = {}  # what is given for so many examples: it stays in the cache
    now = choice.now

    def forward(x: Any) -> Any:
        given = choice.given
        if not choice.active or given not in starts or _key(x)[0] != given[0] or len(x) != given[1][0]:
            if choice.active:
                whole(now)
            return type(module).forward(module, x)
        (number, first), count = starts[given], given[1][0]
        part = slice(first, first + count)
        if 0.0 in now[:2] or abs(sum(now) - 1) > WHOLE:  # what has no part does not count, infinite as it may be
            parts = [image[number][part] for image in images]
            return mix(parts, now, torch.empty_like(parts[0]))
        others, base = rows.get((number, first, count), ([math.nan], None))
        if base is None or others != now[2:]:
            parts = [image[number][part] for image in images]
            base = mix(parts, [1 - sum(now[2:]), 0.0, *now[2:]], torch.empty_like(parts[0]) if base is None else base)
            rows[number, first, count] = list(now[2:]), base
        if count not in buffers:
            buffers[count] = torch.empty_like(base)
        return torch.add(base, across[number][part], alpha=now[1], out=buffers[count])

    return forward


def fed_by(model: Any, run: Callable[[Any], Any], x: Any) -> list[Any]:
    """Linear layers and convolutions that are called once, on the data themselves, with a weight of their own and no
    hooks; seen with two examples and with three, so that two frames are not taken for two examples."""
    one, other = (_fed_by(model, run, x[: min(count, len(x))]) for count in (2, 3))
    return [module for module in one if module in other]


def _fed_by(model: Any, run: Callable[[Any], Any], part: Any) -> list[Any]:
    from torch import nn

    calls, fed = dict[Any, int](), list[Any]()
    own = {module: list(module._parameters.values()) for module in model.modules()}
    watched = {module for module in own if hooked(module)}

    def look(module: Any, arguments: Any, out: Any) -> None:
        calls[module] = calls.get(module, 0) + 1
        try:
            here = bool(arguments) and arguments[0].data_ptr() == part.data_ptr()
        except RuntimeError:  # inside vmap nothing lies anywhere
            return
        used = zip(module._parameters.values(), own[module], strict=False)
        if not here or arguments[0].numel() != part.numel() or any(p is not q for p, q in used):
            return
        if len(arguments[0]) == len(out) == len(part):  # rows are examples, not tokens or frames
            fed.append(module)

    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    handles = [module.register_forward_hook(look) for module in own if type(module) in kinds]
    try:
        takers = Calls.seen(run, part).takers()
    finally:
        for handle in handles:
            handle.remove()
    return [
        module for module in dict.fromkeys(fed)
        if calls[module] == 1 and module not in watched and "weight" in module._parameters
        and all(takers.get(id(p), 0) <= 1 for p in module.parameters())
    ]  # fmt: skip


def _images_of(
    found: Sequence[Any], run: Callable[[Any], Any], inputs: Sequence[tuple[Any, int]], place: Callable[[int], None],
    points: int,
) -> dict[Any, list[list[Any]]]:  # fmt: skip
    """Module → of each point, of each input, what it makes of all examples; none where that cannot be, or is large."""
    images: dict[Any, list[list[Any]]] = {module: [] for module in found}
    try:
        x = inputs[0][0][:2]
        few = _images(run, found, x, 2)
        size = sum(image.numel() * image.element_size() for image in few.values()) / max(len(x), 1)
        if size * sum(len(each) for each, _ in inputs) * (points + 3) > MOST or len(few) < len(found):
            return {}
        for k in range(points):
            place(k)
            first = _images(run, found, *inputs[0])
            for module in found:
                images[module].append([first[module]])
            for x, batch in inputs[1:]:
                head = _head(x, inputs[0][0])
                other = first if head else _images(run, found, x, batch)
                for module in found:
                    images[module][-1].append(other[module][: len(x)])
    except (KeyError, LayerscopeError):  # a layer that some batch does not reach, a model that fails at an end
        return {}
    return images


def _images(run: Callable[[Any], Any], modules: Sequence[Any], x: Any, batch: int) -> dict[Any, Any]:
    """What these layers make of all examples, whatever comes behind them; of those that are called once each time."""
    import torch

    parts: dict[Any, list[Any]] = {module: [] for module in modules}
    handles = [
        module.register_forward_hook(lambda module, _, out: parts[module].append(out.clone())) for module in modules
    ]
    batches = x.split(batch)
    try:
        for part in batches:
            run(part)
    finally:
        for handle in handles:
            handle.remove()
    wanted = [len(part) for part in batches]
    return {module: torch.cat(found) for module, found in parts.items() if [len(each) for each in found] == wanted}
