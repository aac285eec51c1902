"""Sources made of named tensors: what every format of weights comes down to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerscope.errors import Unreadable
from layerscope.numerics.matrices import pick
from layerscope.records.layers import LayerRef
from layerscope.records.sources import SourceSpec
from layerscope.sources.layouts.keras_flax_kernels import Variable, VariableLayout, lay_out_variable
from layerscope.sources.layouts.torch_names import TensorInfo, layers_of, number_layers
from layerscope.sources.quantization.stored_codes import decode_tensors

if TYPE_CHECKING:
    from layerscope.array_types import Array


class Tensors:
    """Rows, and a function that fetches the tensor that one is part of."""

    def __init__(self, spec: SourceSpec, refs: Iterable[LayerRef], fetch: Callable[[str], Array]) -> None:
        self.spec, self.fetch = spec, fetch
        self._layers = number_layers(refs)

    def layers(self) -> Iterator[LayerRef]:
        """Every tensor, in stored order; fused tensors as their parts."""
        return iter(self._layers)

    def replace_rows(self, rule: Callable[[LayerRef], LayerRef]) -> None:
        """Every row as a rule of the format makes it."""
        self._layers = [rule(ref) for ref in self._layers]

    def read(self, ref: LayerRef) -> Array:
        """The numbers of one layer, in their stored dtype."""
        return pick(self.fetch(ref.tensor), ref)


class StateDict(Tensors):
    """Tensors laid out as PyTorch names and stores them, with what a config adds."""

    def __init__(
        self,
        spec: SourceSpec,
        tensors: Iterable[TensorInfo],
        fetch: Callable[[str], Array],
        config: Mapping[str, Any] | None = None,
    ) -> None:
        self.tensors, fetch = decode_tensors(list(tensors), fetch, config or {})
        super().__init__(spec, layers_of(self.tensors, config), fetch)


def source_from_names(spec: SourceSpec, infos: Iterable[TensorInfo], fetch: Callable[[str], Array]) -> Tensors:
    """Tensors laid out as their names say: Flax's where there are kernels and no weights, else PyTorch's."""
    infos = list(infos)
    variables = [Variable(info.name, info.shape, info.dtype, fault=info.fault) for info in infos]
    last_words = {variable.variable for variable in variables}
    if not last_words & {"kernel", "embedding"} or "weight" in last_words:
        return StateDict(spec, infos, fetch)
    return source_from_variables(spec, variables, fetch)


def source_from_flax(spec: SourceSpec, infos: Iterable[TensorInfo], fetch: Callable[[str], Array]) -> Tensors:
    """Tensors of a file that only Flax writes."""
    return source_from_variables(spec, (Variable(i.name, i.shape, i.dtype, fault=i.fault) for i in infos), fetch)


def source_from_variables(spec: SourceSpec, variables: Iterable[Variable], fetch: Callable[[str], Array]) -> Tensors:
    """Tensors laid out as Keras and Flax store them."""
    laid_by_name: dict[str, VariableLayout] = {variable.name: lay_out_variable(variable) for variable in variables}

    def fetch_arranged(name: str) -> Array:
        return laid_by_name[name].arrange(fetch(name))

    return Tensors(spec, (ref for laid in laid_by_name.values() for ref in laid.refs), fetch_arranged)


def check_index(target: Path, listed: Mapping[str, Path], file_by_tensor: Mapping[str, Path]) -> None:
    """Every tensor is where the index says.

    :raises Unreadable: one is missing or in another file.
    """
    for tensor, file in listed.items():
        if file_by_tensor.get(tensor) != file:
            where = f"it is in {file_by_tensor[tensor].name}" if tensor in file_by_tensor else "no file has it"
            raise Unreadable(f"{target}: the index puts tensor {tensor!r} in {file.name}, but {where}")
