"""The functions that a torch pickle may call to rebuild tensors; none of them computes anything but sizes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from layerscope.sources.storage.dtypes import MAX_AXES
from layerscope.sources.storage.pickle_objects import TORCH_DTYPES, Immutable, StandIn, Storage, Tensor, bytes_per_entry

SCALED_SUBCLASSES = ("Int8Tensor", "Float8Tensor", "PlainAQTTensorImpl")  # of torchao: codes, scale, zero point
INTEGER_ZERO_POINTS = 1  # torchao's ZeroPointDomain.INT
NOT_DECODED = "quantized as torchao's {}, not decoded"
SHARD = (
    "one rank's part of a distributed tensor (DTensor); save the full state dict with get_model_state_dict(model, "
    "options=StateDictOptions(full_state_dict=True)), or pass a checkpoint of torch.distributed.checkpoint"
)
MAX_DENSE_ENTRIES = 1 << 26  # entries of a sparse tensor that is read as a dense one


class AllowedCall(Immutable):
    """A function that a pickle may call, wrapped so that it has no attributes to set."""

    __slots__ = ("function",)
    function: Any

    def __init__(self, function: Any) -> None:
        object.__setattr__(self, "function", function)

    def __call__(self, *args: Any) -> Any:
        return self.function(*args)

    def __setattr__(self, name: str, value: Any) -> None:
        raise ValueError("the pickle modifies a read-only object")


def _rebuild_tensor(storage: Storage, offset: int, shape: Any, strides: Any, *_: Any) -> Tensor:
    shape, strides = tuple(shape), tuple(strides)
    sizes = [offset, *shape, *strides]
    is_possible = isinstance(storage, Storage) and len(shape) == len(strides) <= MAX_AXES
    if not is_possible or not all(isinstance(x, int) and 0 <= x < 1 << 62 for x in sizes):
        raise ValueError("a tensor has impossible sizes")
    if math.prod(shape) and offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True)) >= storage.count:
        raise ValueError("a tensor is larger than its storage")
    return Tensor(storage, offset, shape, strides)


def _rebuild_tensor_v3(storage: Storage, offset: int, shape: Any, strides: Any, *further_arguments: Any) -> Tensor:
    """Rebuild a tensor with a dtype that has no storage class; its storage counts bytes."""
    dtype = next((x for x in further_arguments if isinstance(x, str) and x in TORCH_DTYPES), "")
    if not isinstance(storage, Storage) or not dtype:
        raise ValueError("a tensor has an unknown dtype")
    typed_storage = Storage(storage.key, storage.dtype, storage.count // bytes_per_entry(dtype))
    tensor = _rebuild_tensor(typed_storage, offset, shape, strides)
    return Tensor(storage, tensor.offset, tensor.shape, tensor.strides, dtype_override=dtype)


def _rebuild_quantized_tensor(
    storage: Storage, offset: int, shape: Any, strides: Any, quantizer: Any = (), *_: Any
) -> Tensor:
    """Rebuild a quantized tensor: (codes − zero point) · scale, per tensor or along one axis."""
    tensor = _rebuild_tensor(storage, offset, shape, strides)
    _, scale, zero, *axes = quantizer if isinstance(quantizer, tuple) and len(quantizer) in (3, 4) else ("", "", "")
    if isinstance(scale, float) and isinstance(zero, int) and not axes:
        return replace(tensor, form="affine", parts=(tensor,), scale=scale, zero=float(zero))
    fits = isinstance(scale, Tensor) and isinstance(zero, Tensor) and len(axes) == 1 and axes[0] in range(len(shape))
    if fits and scale.shape == zero.shape == (tensor.shape[axes[0]],):
        return replace(tensor, form="affine", parts=(tensor, scale, zero), axis=axes[0])
    return replace(tensor, fault="quantized with torch.quantization in a way that is not decoded")


def _rebuild_sparse_tensor(layout: Any, data: Any, *_: Any) -> Tensor:
    """Rebuild a sparse tensor, which is read as a dense one: COO (indices, values, size) or CSR (rows, columns, …)."""
    parts = tuple(part for part in data if isinstance(part, Tensor)) if isinstance(data, tuple) else ()
    shape = tuple(data[len(parts)]) if parts and isinstance(data[len(parts)], tuple) else ()
    if not 2 <= len(parts) <= 3 or not shape or not all(isinstance(n, int) and 0 <= n < 1 << 62 for n in shape):
        raise ValueError("a sparse tensor has impossible parts")
    values, fault = parts[-1], ""
    count = values.shape[0] if values.shape else 0
    expected = (
        [(len(shape), count), (count,)] if len(parts) == 2 else [(shape[0] + 1,), (count,), (count,)]
    )  # fmt: skip
    if layout not in ("torch.sparse_coo", "torch.sparse_csr") or [part.shape for part in parts] != expected:
        fault = f"a sparse tensor ({str(layout)[:40]}) that is not read; save it with .to_dense()"
    elif math.prod(shape) > MAX_DENSE_ENTRIES:
        fault = f"a sparse tensor with more than {MAX_DENSE_ENTRIES:,} entries, which is not read as a dense one"
    return Tensor(values.storage, 0, shape, (0,) * len(shape), fault, values.dtype_override, "sparse", parts)


def _rebuild_meta_tensor(dtype: Any, shape: Any, strides: Any, *_: Any) -> Tensor:
    """Rebuild a tensor on the meta device, which has a shape and no values."""
    shape, strides = _make_size(tuple(shape)), _make_size(tuple(strides))
    if dtype not in TORCH_DTYPES or len(shape) != len(strides):
        raise ValueError("a meta tensor has impossible sizes")
    return Tensor(Storage("", dtype, 0), 0, shape, strides, "a meta tensor: it was saved without values")


def _rebuild_nested_tensor(buffer: Any, *_: Any) -> Any:
    """Rebuild a nested tensor, several tensors of different sizes in one, as a row that is not read."""
    if not isinstance(buffer, Tensor):
        raise ValueError("a nested tensor has no values")
    fault = "a nested tensor: it holds tensors of different sizes and is not read"
    return Tensor(buffer.storage, buffer.offset, buffer.shape, buffer.strides, fault, buffer.dtype_override)


def _rebuild_jagged_tensor(parts: Any = None, *_: Any) -> Any:
    """Rebuild a jagged nested tensor from its values, one row after another, as a row that is not read."""
    return _rebuild_nested_tensor(parts.get("values") if isinstance(parts, Mapping) else None)


def _layout_name(name: Any = "") -> str:
    return name if isinstance(name, str) else ""


def _rebuild_parameter(data: Any, *_: Any) -> Any:
    return data


def _rebuild_subclass(function: Any, kind: Any, args: Any, state: Any = None, *_: Any) -> Any:
    """Return the tensor that a tensor subclass is made from: a plain one, or what a wrapper holds in its state."""
    if not isinstance(function, AllowedCall) or not isinstance(args, tuple):
        return StandIn()
    if function is not WRAPPER_CALL:
        return function(*args)
    name = str(getattr(kind, "kind", "")).rpartition(".")[2][:60]
    shape = _make_size(args[2]) if len(args) > 2 else ()
    tables = state if isinstance(state, tuple) else (state,)  # (state, slots) of a class with slots
    parts = {key: value for table in tables if isinstance(table, Mapping) for key, value in table.items()}
    inner = parts.get("tensor_impl")
    if isinstance(inner, Tensor) and inner.form == "affine":  # AffineQuantizedTensor of older versions of torchao
        domain = getattr(parts.get("zero_point_domain"), "args", (INTEGER_ZERO_POINTS,))
        return inner if domain == (INTEGER_ZERO_POINTS,) else replace(inner, fault=NOT_DECODED.format(name))
    local = parts.get("_local_tensor")
    if isinstance(local, Tensor):
        is_whole = local.shape == shape
        return local if is_whole else replace(local, shape=shape, strides=(0,) * len(shape), fault=SHARD)
    pieces = [parts.get(key) for key in ("qdata" if "qdata" in parts else "int_data", "scale", "zero_point")]
    is_scaled = name in SCALED_SUBCLASSES and parts.get("act_pre_scale") is None
    if is_scaled and isinstance(pieces[0], Tensor) and isinstance(pieces[1], Tensor):
        return replace(pieces[0], form="affine", parts=tuple(piece for piece in pieces if isinstance(piece, Tensor)))
    first = next((part for part in parts.values() if isinstance(part, Tensor)), None)
    if first is None:
        return StandIn()
    return replace(first, shape=shape, strides=(0,) * len(shape), fault=NOT_DECODED.format(name))


def _rebuild_wrapper(*_: Any) -> StandIn:
    """A wrapper is rebuilt from its state (:func:`_rebuild_subclass`), never from its arguments alone."""
    return StandIn()


def _make_size(sizes: Any = ()) -> tuple[Any, ...]:
    is_plain = isinstance(sizes, tuple | list) and len(sizes) <= MAX_AXES
    if not is_plain or not all(isinstance(size, int) for size in sizes):
        raise ValueError("torch.Size is made from something other than integers")
    return tuple(sizes)


def _encode(text: Any = "", encoding: Any = "latin1") -> Any:
    """The bytes that a pickle of protocol 2 holds as text."""
    if not isinstance(text, str) or encoding != "latin1":
        raise ValueError("bytes are encoded in another way than Python does")
    return text.encode("latin1")


def _return_none(*_: Any) -> None:
    return None


REBUILD_CALLS = {name: AllowedCall(function) for name, function in {
    "_rebuild_tensor": _rebuild_tensor, "_rebuild_tensor_v2": _rebuild_tensor, "_rebuild_tensor_v3": _rebuild_tensor_v3,
    "_rebuild_qtensor": _rebuild_quantized_tensor, "_rebuild_parameter": _rebuild_parameter,
    "_rebuild_parameter_with_state": _rebuild_parameter, "_rebuild_sparse_tensor": _rebuild_sparse_tensor,
    "_rebuild_sparse_csr_tensor": _rebuild_sparse_tensor, "_rebuild_nested_tensor": _rebuild_nested_tensor,
    "_rebuild_meta_tensor_no_storage": _rebuild_meta_tensor,
}.items()}  # fmt: skip
WRAPPER_CALL = AllowedCall(_rebuild_wrapper)
ALLOWED_GLOBALS: dict[tuple[str, str], Any] = {
    **{("torch._utils", name): call for name, call in REBUILD_CALLS.items()},
    ("torch._tensor", "_rebuild_from_type_v2"): AllowedCall(_rebuild_subclass),
    ("torch._utils", "_rebuild_wrapper_subclass"): WRAPPER_CALL,
    ("torch.nested._internal.nested_tensor", "_rebuild_njt"): AllowedCall(_rebuild_jagged_tensor),
    ("torch", "Size"): AllowedCall(_make_size),
    ("_codecs", "encode"): AllowedCall(_encode),
    ("torch", "device"): AllowedCall(_return_none),
    ("torch.serialization", "_get_layout"): AllowedCall(_layout_name),
    ("torch.storage", "UntypedStorage"): "uint8",
}
