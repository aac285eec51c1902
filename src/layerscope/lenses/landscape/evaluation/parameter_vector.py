"""All parameters of a model as views of one vector, so that setting all weights takes one copy."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from layerscope.sources.model_weights import Weights, memory_key
from layerscope.tensor_names import strip_wrapper_prefixes


class ParameterVector:
    """Maps the parameters of a model to positions in one vector; tied parameters share a position."""

    def __init__(self, model: Any, channels_last: bool) -> None:
        """Collect the parameters of a model.

        :param model: the model.
        :param channels_last: store kernels as (out, h, w, in), which makes small convolutions several times faster.
        """
        self.channels_last = channels_last
        self.parameters: dict[str, Any] = {}
        self.tied: dict[str, list[Any]] = {}  # name → further parameters that share its memory
        self.names: dict[str, list[str]] = {}  # name → all names of the parameter in the model
        first_names: dict[Any, str] = {}
        for name, p in model.named_parameters():
            key, plain = memory_key(p), strip_wrapper_prefixes(name)
            if key in first_names:
                self.tied.setdefault(first_names[key], []).append(p)
                self.names[first_names[key]].append(name)
                continue
            first_names[key] = plain
            self.parameters[plain] = p
            self.names[plain] = [name]
        self.order = list(self.parameters)
        self.early = sum(p.numel() for p in self.parameters.values())  # entries before the parameters placed last
        self._views: list[tuple[Any, Any]] = []

    def all_tied(self, name: str) -> list[Any]:
        """Return a parameter and all parameters that share its memory."""
        return [self.parameters[name], *self.tied.get(name, ())]

    def shares_nothing(self, module: Any) -> bool:
        """Whether a module has no tied parameters."""
        shared = [p for name in self.tied for p in self.all_tied(name)]
        return not any(p is q for p in module.parameters() for q in shared)

    def place_last(self, parameters: Collection[Any]) -> None:
        """Move these parameters to the end of the vector."""
        last = [name for name, p in self.parameters.items() if any(p is q for q in parameters)]
        self.order = [*(name for name in self.parameters if name not in last), *last]
        self.early = sum(p.numel() for name, p in self.parameters.items() if name not in last)

    def flatten(self, point: Weights) -> Any:
        """Convert weights by name to a vector."""
        import torch

        return torch.cat(
            [self._to_storage(torch.from_numpy(np.array(point[k])).to(self.parameters[k])) for k in self.order]
        )

    def _to_storage(self, tensor: Any) -> Any:
        return (tensor.permute(0, 2, 3, 1) if self.channels_last and tensor.dim() == 4 else tensor).reshape(-1)

    def _view(self, part: Any, shape: Any) -> Any:
        if not self.channels_last or len(shape) != 4:
            return part.view(shape)
        o, i, h, w = shape
        return part.view(o, h, w, i).permute(0, 3, 1, 2)

    @staticmethod
    def retie(model: Any, copied: Any) -> None:
        """Tie the parameters of a copy that share memory in the original model."""
        first: dict[Any, Any] = {}
        for original, p in zip(model.parameters(), copied.parameters(), strict=True):
            p.data = first.setdefault(memory_key(original), p).data

    @contextmanager
    def attached(self, vector: Any | None = None) -> Iterator[None]:
        """Make the parameters views of a vector inside the context; by default the vector is a copy of them."""
        import torch

        if vector is None:
            vector = torch.cat([self._to_storage(self.parameters[k].data) for k in self.order])
        outer_views, start = self._views, 0
        original = [(p, p.data) for name in self.order for p in self.all_tied(name)]
        views = []
        for name in self.order:
            parameter = self.parameters[name]
            view = self._view(vector[start : start + parameter.numel()], parameter.shape)
            start += parameter.numel()
            views += [(p, view) for p in self.all_tied(name)]
        self._views = views
        self.reattach()
        try:
            yield
        finally:
            self._views = outer_views
            for p, data in original:
                p.data = data

    def reattach(self) -> None:
        """Make parameters views of the vector again if the model replaced them, as max-norm layers do."""
        for p, view in self._views:
            if p.data_ptr() != view.data_ptr() or p.stride() != view.stride():
                p.data = view
