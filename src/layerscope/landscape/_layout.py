"""The parameters of a model as views of one vector: a point of parameter space is one copy away."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from layerscope.landscape.weights import Weights, memory
from layerscope.sources.delta import plain_name


class Layout:
    """Which parameter lies where. Those that share memory are one."""

    def __init__(self, model: Any, images: bool) -> None:
        """
        :param images: kernels are stored out, h, w, in: with channels last small convolutions are several times faster.
        """
        self.images = images
        self.parameters: dict[str, Any] = {}
        self.shared: dict[str, list[Any]] = {}  # further parameters that are the same memory
        self.names: dict[str, list[str]] = {}  # as the model itself calls them
        seen: dict[Any, str] = {}
        for name, p in model.named_parameters():
            key = memory(p)
            if key in seen:
                self.shared.setdefault(seen[key], []).append(p)
                self.names[seen[key]].append(name)
                continue
            seen[key] = plain_name(name)
            self.parameters[plain_name(name)] = p
            self.names[plain_name(name)] = [name]
        self.order = list(self.parameters)
        self.early = sum(p.numel() for p in self.parameters.values())
        self._views: list[tuple[Any, Any]] = []

    def tied(self, name: str) -> list[Any]:
        """A parameter and those that are the same memory."""
        return [self.parameters[name], *self.shared.get(name, ())]

    def alone(self, module: Any) -> bool:
        """Has a module parameters that are those of no other?"""
        several = [p for name in self.shared for p in self.tied(name)]
        return not any(p is each for p in module.parameters() for each in several)

    def put_last(self, late: Collection[Any]) -> None:
        """These parameters lie behind the others."""
        behind = [name for name, p in self.parameters.items() if any(p is each for each in late)]
        self.order = [*(name for name in self.parameters if name not in behind), *behind]
        self.early = sum(p.numel() for name, p in self.parameters.items() if name not in behind)

    def flat(self, point: Weights) -> Any:
        """A point as a vector."""
        import torch

        return torch.cat(
            [self._stored(torch.from_numpy(np.array(point[k])).to(self.parameters[k])) for k in self.order]
        )

    def _stored(self, tensor: Any) -> Any:
        return (tensor.permute(0, 2, 3, 1) if self.images and tensor.dim() == 4 else tensor).reshape(-1)

    def _view(self, part: Any, shape: Any) -> Any:
        if not self.images or len(shape) != 4:
            return part.view(shape)
        o, i, h, w = shape
        return part.view(o, h, w, i).permute(0, 3, 1, 2)

    @staticmethod
    def retied(model: Any, copied: Any) -> None:
        """Parameters that are one memory in a model are so in its copy, which has them apart."""
        first: dict[Any, Any] = {}
        for p, other in zip(model.parameters(), copied.parameters(), strict=True):
            other.data = first.setdefault(memory(p), other).data

    @contextmanager
    def on(self, here: Any | None = None) -> Iterator[None]:
        """Inside, the parameters are views of a vector; without one, of a copy of themselves."""
        import torch

        if here is None:
            here = torch.cat([self._stored(self.parameters[k].data) for k in self.order])
        before, at = self._views, 0
        kept = [(p, p.data) for name in self.order for p in self.tied(name)]
        views = []
        for name in self.order:
            p = self.parameters[name]
            view = self._view(here[at : at + p.numel()], p.shape)
            at += p.numel()
            views += [(each, view) for each in self.tied(name)]
        self._views = views
        self.again()
        try:
            yield
        finally:
            self._views = before
            for p, data in kept:
                p.data = data

    def again(self) -> None:
        """Where a model has given itself other weights (max-norm layers do), they are views again."""
        for p, view in self._views:
            if p.data_ptr() != view.data_ptr() or p.stride() != view.stride():
                p.data = view
