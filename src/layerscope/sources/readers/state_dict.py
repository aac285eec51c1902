"""Sources made of named tensors, the common form of all weight formats."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerscope.errors import Unreadable
from layerscope.numerics.matrices import pick
from layerscope.records.layers import UNSURE, LayerRef
from layerscope.records.sources import SourceSpec
from layerscope.sources.inventory import not_weights, without_weight_names
from layerscope.sources.layouts.keras_flax_kernels import Variable, VariableLayout, lay_out_variable
from layerscope.sources.layouts.layer_order import in_model_order
from layerscope.sources.layouts.parametrized_weights import ScaleOf, form_weights
from layerscope.sources.layouts.torch_names import FLOATS, TensorInfo, layers_of, number_layers
from layerscope.sources.mask_values import MASK, is_mask
from layerscope.sources.quantization.stored_codes import decode_tensors

if TYPE_CHECKING:
    from layerscope.array_types import Array


WEIGHT_ENDINGS = ("weight", "kernel", "_proj")  # of names that settle what a tensor is, so that no value is read


class Tensors:
    """A source made of layer rows and a function that fetches the stored tensor of a row."""

    def __init__(self, spec: SourceSpec, refs: Iterable[LayerRef], fetch: Callable[[str], Array]) -> None:
        self.spec, self.fetch = spec, fetch
        self._layers = number_layers(in_model_order(refs))

    def layers(self) -> Iterator[LayerRef]:
        """All tensors in the order of the model's layers; a fused tensor has one row per part."""
        return iter(self._layers)

    def replace_rows(self, rule: Callable[[LayerRef], LayerRef]) -> None:
        """Replace every row with ``rule(row)``."""
        self._layers = [rule(ref) for ref in self._layers]

    def read(self, ref: LayerRef) -> Array:
        """The values of one layer in their stored dtype."""
        return pick(self.fetch(ref.tensor), ref)


class StateDict(Tensors):
    """Tensors named and stored as in PyTorch, interpreted with the model's config if there is one."""

    def __init__(
        self,
        spec: SourceSpec,
        tensors: Iterable[TensorInfo],
        fetch: Callable[[str], Array],
        config: Mapping[str, Any] | None = None,
        lora_scale: ScaleOf | None = None,
    ) -> None:
        stored = list(tensors)
        formed, fetch = form_weights(stored, fetch, lora_scale)
        self.formed = {info.name for info in formed} - {info.name for info in stored}  # weights that are not stored
        decoded, fetch = decode_tensors(formed, fetch, config or {})
        self.tensors = _take_inventory(decoded, fetch)
        self.config = config
        super().__init__(spec, layers_of(self.tensors, config), fetch)


def source_from_names(spec: SourceSpec, infos: Iterable[TensorInfo], fetch: Callable[[str], Array]) -> Tensors:
    """Create a source from named tensors: in Flax's layout if there are kernels and no weights, else in PyTorch's."""
    infos = list(infos)
    variables = [Variable(info.name, info.shape, info.dtype, fault=info.fault) for info in infos]
    last_words = {variable.variable for variable in variables}
    if not last_words & {"kernel", "embedding"} or "weight" in last_words:
        return StateDict(spec, infos, fetch)
    return source_from_variables(spec, variables, fetch)


def source_from_flax(spec: SourceSpec, infos: Iterable[TensorInfo], fetch: Callable[[str], Array]) -> Tensors:
    """Create a source from the tensors of a file that only Flax writes."""
    return source_from_variables(spec, (Variable(i.name, i.shape, i.dtype, fault=i.fault) for i in infos), fetch)


def source_from_variables(spec: SourceSpec, variables: Iterable[Variable], fetch: Callable[[str], Array]) -> Tensors:
    """Create a source from variables in the layout of Keras and Flax."""
    variables = list(variables)
    others = _not_weights(TensorInfo(v.name, v.shape, v.dtype) for v in variables if not v.fault)
    variables = [
        replace(v, not_weight=others[v.name]) if v.name in others and not v.not_weight else v for v in variables
    ]
    laid_by_name: dict[str, VariableLayout] = {variable.name: lay_out_variable(variable) for variable in variables}

    def fetch_arranged(name: str) -> Array:
        return laid_by_name[name].arrange(fetch(name))

    return Tensors(spec, (ref for laid in laid_by_name.values() for ref in laid.refs), fetch_arranged)


def _take_inventory(infos: list[TensorInfo], fetch: Callable[[str], Array]) -> list[TensorInfo]:
    """Mark tensors that are not weights, by structure, names and values, and tensors whose names do not say weight."""
    others = _not_weights(info for info in infos if not info.part_of)
    possible = [
        info.name
        for info in infos
        if len(info.shape) > 1
        and FLOATS.match(info.dtype)
        and info.name not in others
        and not (info.part_of or info.fault)
    ]
    unsure = without_weight_names(possible)
    others |= {name: MASK for name in possible if not name.endswith(WEIGHT_ENDINGS) and is_mask(fetch, name)}
    is_named = len(unsure) < len(possible)  # names mean something in this file
    marked = []
    for info in infos:
        if info.name in others:
            info = replace(info, not_weight=others[info.name])
        elif info.name in unsure and is_named and not info.how:
            info = replace(info, how=UNSURE)
        marked.append(info)
    return marked


def _not_weights(infos: Iterable[TensorInfo]) -> dict[str, tuple[str, str]]:
    """What the inventory says of the floating-point tensors; others are no weights by their dtype."""
    return not_weights({info.name: info.shape for info in infos if FLOATS.match(info.dtype)})


def check_index(target: Path, listed: Mapping[str, Path], file_by_tensor: Mapping[str, Path]) -> None:
    """Check that every tensor is in the file that the index names.

    :raises Unreadable: a tensor is missing or in another file.
    """
    for tensor, file in listed.items():
        if file_by_tensor.get(tensor) != file:
            where = f"it is in {file_by_tensor[tensor].name}" if tensor in file_by_tensor else "no file contains it"
            raise Unreadable(
                f"{target}: the index lists tensor {tensor!r} in {file.name}, but {where}; "
                "use the index and the weight files of the same version"
            )
