"""Conversion of torch tensors to NumPy; imported only if torch is already loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from layerscope.errors import Absent
from layerscope.sources.layouts.torch_names import TensorInfo

if TYPE_CHECKING:
    from layerscope.array_types import Array


def describe_tensor(name: str, tensor: Any) -> TensorInfo:
    """Describe a tensor; tied tensors get equal storage identities."""
    dtype = str(tensor.dtype).removeprefix("torch.")
    if tensor.is_nested:
        return TensorInfo(name, (), "nested")
    if has_codes(tensor):
        return TensorInfo(name, tuple(tensor.shape), "float32", how="decoded from its codes")
    if tensor.layout.__str__() != "torch.strided":
        dtype = f"{tensor.layout} {dtype}".removeprefix("torch.")
    return TensorInfo(
        name,
        tuple(tensor.shape),
        dtype,
        memory_identity(tensor),
        "expanded: it repeats the same numbers" if is_expanded(tensor) else "",
    )


def has_codes(tensor: Any) -> bool:
    """Whether it is quantized: by PyTorch itself, or as one of torchao's classes."""
    return bool(tensor.is_quantized) or (
        type(tensor).__module__.startswith("torchao.") and hasattr(tensor, "dequantize")
    )


def is_expanded(tensor: Any) -> bool:
    """Whether the tensor shows more values than its memory holds."""
    if tensor.device.type == "meta" or tensor.layout.__str__() != "torch.strided":
        return False
    return bool(tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes())


def memory_identity(tensor: Any) -> tuple[Any, ...] | None:
    """A key that is equal for tensors with the same memory and shape; None for a tensor without memory."""
    if tensor.device.type == "meta" or tensor.layout.__str__() != "torch.strided" or tensor.numel() == 0:
        return None
    return (str(tensor.device), tensor.data_ptr(), tuple(tensor.shape), tuple(tensor.stride()))


def to_numpy(tensor: Any) -> Array:
    """The values on the CPU, in the narrowest NumPy or ml_dtypes type that holds them."""
    import torch

    if tensor.device.type == "meta":
        raise Absent("on the meta device: it has a shape but no values; load the weights first")
    tensor = tensor.detach().cpu()
    if has_codes(tensor):
        tensor = tensor.dequantize().float()
    if tensor.dtype == torch.bfloat16 or str(tensor.dtype).startswith("torch.float8"):
        import ml_dtypes

        dtype = getattr(ml_dtypes, str(tensor.dtype).removeprefix("torch."))
        bits = torch.int16 if tensor.element_size() == 2 else torch.uint8
        array: Array = tensor.contiguous().view(bits).numpy().view(dtype)
        return array
    plain_array: Array = tensor.resolve_conj().resolve_neg().numpy()
    return plain_array
