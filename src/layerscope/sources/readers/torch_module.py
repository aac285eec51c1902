"""Live torch.nn.Modules: every parameter and buffer, with axes from the module that owns it."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from layerscope.errors import Unreadable
from layerscope.records.layers import LayerRef
from layerscope.records.sources import SourceSpec
from layerscope.sources.adapters.live_adapters import (
    AdaptedTensor,
    adapted_tensors,
    innermost,
    is_adapted,
    unused_parts,
)
from layerscope.sources.inventory import not_weights
from layerscope.sources.layouts import transposed_projections
from layerscope.sources.layouts.fused_projections import fused_parts, with_heads
from layerscope.sources.layouts.layer_order import in_model_order
from layerscope.sources.layouts.torch_names import (
    CONV,
    GATES,
    NORM,
    TensorInfo,
    equal_parts,
    layers_of,
    matches,
    number_layers,
    skip_reason,
    split_ref,
)
from layerscope.sources.targets import make_spec

if TYPE_CHECKING:
    from layerscope.array_types import Array

PORTABLE = False
BUFFER = "a buffer"


def accepts(target: Any) -> bool:
    """Accept a torch.nn.Module, without importing torch; Keras models on the torch backend are not accepted."""
    torch, keras = sys.modules.get("torch"), sys.modules.get("keras")
    if torch is None or not isinstance(target, torch.nn.Module):
        return False
    return not (keras is not None and hasattr(keras, "Layer") and isinstance(target, keras.Layer))


def open(target: Any) -> Module:
    """Describe every tensor of the module without changing it."""
    return Module(target)


class Module:
    """Layers of a live module.

    A parametrized weight (weight_norm, spectral_norm) is one layer: the weight that the forward pass uses. The tensors
    from which it is computed are listed as its ingredients.
    """

    def __init__(self, module: Any) -> None:
        self.spec: SourceSpec = make_spec(module, "torch_module", portable=False)
        self._tensors: dict[str, Any] = {}
        self._layers = number_layers(in_model_order(_take_inventory(self._collect_rows(module))))
        if not self._layers:
            raise Unreadable(f"{type(module).__name__} has no parameters or buffers; pass a module that has some")

    def layers(self) -> Iterator[LayerRef]:
        """All tensors in the order of the model's layers."""
        return iter(self._layers)

    def read(self, ref: LayerRef) -> Array:
        """The values of one layer."""
        from layerscope.numerics.matrices import pick
        from layerscope.sources.readers.torch_tensor import to_numpy

        source = self._tensors[ref.tensor]
        return pick(to_numpy(source() if callable(source) else source), ref)

    def _collect_rows(self, root: Any) -> list[LayerRef]:
        from layerscope.sources.readers.torch_tensor import describe_tensor

        refs: list[LayerRef] = []
        row_by_memory: dict[Any, int] = {}
        config: dict[str, Any] = getattr(getattr(root, "config", None), "to_dict", dict)()
        unused = unused_parts(root)
        for path, owner in root.named_modules():
            if ".parametrizations." in f".{path}.":
                continue  # listed with the module that owns them
            reason = unused.get(path, "")
            for local, tensor, how in _iterate_tensors(owner, bool(reason)):
                name = f"{path}.{local}" if path else local
                if reason:
                    info = describe_tensor(name, tensor() if callable(tensor) else tensor)
                    refs.append(LayerRef(0, name, info.shape, "", info.dtype, "factor", tensor=name, skipped=reason))
                    continue
                # a parametrized tensor is computed again when read; only its shape is used here
                info = describe_tensor(name, _template(tensor))
                original_row = (
                    row_by_memory.get(info.storage) if info.storage is not None and not callable(tensor) else None
                )
                if original_row is not None:
                    original = refs[original_row]
                    refs[original_row] = replace(original, aliases=(*original.aliases, name))
                    reason = f"same as {original.tensor}"
                    refs.append(LayerRef(0, name, info.shape, "", info.dtype, "tied", tensor=name, skipped=reason))
                    continue
                if info.storage is not None and not callable(tensor):
                    row_by_memory[info.storage] = len(refs)
                self._tensors[name] = tensor
                if how == BUFFER:
                    rows = _describe_buffer(info)
                else:
                    rows = [replace(ref, how=ref.how or how) for ref in _lay_out(innermost(owner), local, info, config)]
                refs += [_add_heads(with_heads(ref, config), root, owner, path) for ref in rows]
        return refs


def _take_inventory(refs: list[LayerRef]) -> list[LayerRef]:
    """Skip parameters that are no weights of their own: state-space parameters and second copies of the model."""
    others = not_weights({ref.tensor: ref.shape for ref in refs if not ref.skipped})
    kinds = {name: reason for name, reason in others.items() if reason[0] in ("state space", "copy")}
    return [
        replace(ref, kind=kinds[ref.tensor][0], axes="", part=None, skipped=kinds[ref.tensor][1])
        if ref.tensor in kinds and not ref.skipped
        else ref
        for ref in refs
    ]


def _describe_buffer(info: TensorInfo) -> list[LayerRef]:
    """Describe a buffer, which is stored with the weights but not learned."""
    [ref, *_] = layers_of([info])
    whole_ref = replace(ref, name=info.name, shape=info.shape, axes="", part=None, how="")
    return [whole_ref if ref.skipped else replace(whole_ref, kind="buffer", skipped="a buffer: not learned")]


def _add_heads(ref: LayerRef, root: Any, owner: Any, path: str) -> LayerRef:
    """Add the number of heads to a row of torch's own MultiheadAttention."""
    from torch import nn

    if isinstance(owner, nn.MultiheadAttention) and (ref.kind == "attention" or ref.name.endswith("_proj_weight")):
        return replace(ref, heads=owner.num_heads, kind="attention") if not ref.skipped else ref
    parent, _, last = path.rpartition(".")
    if last == "out_proj" and ref.axes == "oi":
        above = root.get_submodule(parent) if parent else root
        if isinstance(above, nn.MultiheadAttention):
            return replace(ref, heads=above.num_heads, heads_on="i")
    return ref


def _template(tensor: Any) -> Any:
    """A tensor of the same shape and type, computed only if none is at hand."""
    if isinstance(tensor, AdaptedTensor):
        return tensor.template
    return tensor() if callable(tensor) else tensor


def _iterate_tensors(owner: Any, as_stored: bool = False) -> Iterator[tuple[str, Any, str]]:
    """Yield (name, tensor or function that computes it, description) for one module, without its children.

    An adapted layer of PEFT yields the tensors of the layer inside it, unless they are wanted as stored.
    """
    if is_adapted(owner) and not as_stored:
        yield from adapted_tensors(owner)
    parametrized = getattr(owner, "parametrizations", {})
    for local in parametrized:
        yield local, functools.partial(computed_in_evaluation, owner, local), "computed by its parametrization"
        for name, tensor in parametrized[local].named_parameters():
            yield f"parametrizations.{local}.{name}", tensor, ""
    for local, tensor in owner.named_parameters(recurse=False, remove_duplicate=False):
        normalized_name = local.removesuffix("_g") if local.endswith("_g") else ""
        if (
            normalized_name
            and f"{normalized_name}_v" in owner._parameters
            and isinstance(getattr(owner, normalized_name, None), type(tensor.data))
        ):
            yield normalized_name, getattr(owner, normalized_name), "computed by weight_norm"
        formed = _formed_by_hooks(owner, local)
        if formed is not None:
            yield formed
        yield local, tensor, ""
    if type(owner).__module__.startswith("torch.ao.nn") and callable(getattr(owner, "weight", None)):
        yield "weight", owner.weight, ""
    for local, tensor in owner.named_buffers(recurse=False, remove_duplicate=False):
        yield local, tensor, BUFFER


def _formed_by_hooks(owner: Any, local: str) -> tuple[str, Any, str] | None:
    """The weight that pruning or the old spectral norm forms from ``weight_orig`` before each forward pass.

    It is computed here, because the module's own copy may be older than the parameters.
    """
    stem = local.removesuffix("_orig")
    original = owner._parameters.get(local)
    mask, u, v = (owner._buffers.get(f"{stem}_{part}") for part in ("mask", "u", "v"))
    if stem == local or original is None or not hasattr(owner, stem):
        return None
    if mask is not None and mask.shape == original.shape:
        return stem, lambda: original.detach() * mask, "orig ⊙ mask (pruned)"
    if u is not None and v is not None:
        hooks = [h for h in owner._forward_pre_hooks.values() if getattr(h, "name", "") == stem and hasattr(h, "dim")]
        axis = hooks[0].dim if hooks else 0

        def normalize() -> Any:
            matrix = original.detach().movedim(axis, 0).flatten(1)
            return original.detach() / (u @ matrix @ v)

        return stem, normalize, "orig/(uᵀ·orig·v) (spectral norm)"
    return None


def computed_in_evaluation(owner: Any, local: str) -> Any:
    """Compute a parametrized tensor in evaluation mode, and restore the modes afterwards.

    In training mode, spectral_norm would update its buffers on every access.
    """
    import torch

    parametrization = owner.parametrizations[local]
    modes = [(m, m.training) for m in parametrization.modules()]
    try:
        for m, _ in modes:
            m.training = False
        with torch.no_grad():
            return parametrization()
    finally:
        for m, mode in modes:
            m.training = mode


def _lay_out(owner: Any, local: str, info: TensorInfo, config: dict[str, Any]) -> list[LayerRef]:
    from torch import nn

    ref = LayerRef(0, info.name, info.shape, "", info.dtype, "", tensor=info.name)
    unfit = skip_reason(info.shape, info.dtype)
    if unfit:
        return [replace(ref, kind=unfit[0], skipped=unfit[1])]
    if ".parametrizations." in f".{info.name}" or (
        local.endswith(("_v", "_g", "_orig")) and hasattr(owner, local.rpartition("_")[0])
    ):
        return [replace(ref, kind="ingredient", skipped="part of a parametrized weight")]
    if len(info.shape) < 2 or ("weight" not in local and "proj" not in local):
        return _lay_out_by_name(owner, local, info, config)
    if isinstance(owner, nn.modules.conv._ConvNd) and local == "weight":
        kind, axes = CONV[len(info.shape)]
        axes = "io" + axes[2:] if owner.transposed else axes
        return [_add_groups(replace(ref, kind=kind, axes=axes), owner)]
    if isinstance(owner, nn.RNNBase | nn.RNNCellBase) and local.startswith(("weight_ih", "weight_hh")):
        return _split_gates(replace(ref, axes="oi"), owner)
    if isinstance(owner, nn.Embedding | nn.EmbeddingBag):
        return [replace(ref, kind="embedding", axes="oi")]
    if isinstance(owner, nn.Bilinear):
        return [replace(ref, kind="bilinear", axes="eoi", how="one matrix per output")]
    if transposed_projections.is_conv1d(owner) and len(info.shape) == 2:
        fused = fused_parts(info.name, info.shape, config)
        plain = replace(ref, kind="dense", axes=transposed_projections.AXES, how=transposed_projections.DESCRIPTION)
        if fused is not None and fused.parts:
            return split_ref(plain, fused.parts, "split " + ", ".join(label for label, _ in fused.parts))
        return [plain]
    return _lay_out_by_name(owner, local, info, config)


def _add_groups(ref: LayerRef, owner: Any) -> LayerRef:
    """Add the groups of a convolution to a row.

    torch stores weights as (out, in/g, …), and transposed ones as (in, out/g, …) with the groups on the input axis.
    """
    if owner.groups == 1:
        return ref
    if not owner.transposed:
        return replace(ref, groups=owner.groups, how=f"{owner.groups} groups")
    # each group is (in/g, out/g); reading the grouped axis as the output transposes every matrix
    return replace(
        ref, groups=owner.groups, flipped=True, axes="oi" + ref.axes[2:], how=f"{owner.groups} groups, transposed"
    )


def _split_gates(ref: LayerRef, owner: Any) -> list[LayerRef]:
    count = ref.shape[0] // owner.hidden_size
    kind, labels = GATES.get(count, ("rnn", ""))
    if not labels:
        return [replace(ref, kind=kind)]
    return split_ref(replace(ref, kind=kind), equal_parts(labels, 0, ref.shape[0]), f"split gates {', '.join(labels)}")


def _lay_out_by_name(owner: Any, local: str, info: TensorInfo, config: dict[str, Any]) -> list[LayerRef]:
    stem = info.name.removesuffix(local)
    sibling_shapes = {stem + name: tuple(tensor.shape) for name, tensor in owner.named_parameters(recurse=False)}
    refs = layers_of([info], config, sibling_shapes)
    if isinstance(owner, sys.modules["torch"].nn.Linear):  # the class decides: a Linear named embed is no embedding
        refs = [replace(ref, kind="dense") if ref.kind == "embedding" else ref for ref in refs]
    if len(info.shape) == 1 and info.shape[0] and matches(NORM, type(owner).__name__):
        return [replace(ref, kind="norm", skipped="1-D") for ref in refs]
    return refs
