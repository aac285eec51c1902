"""Quantized and distributed tensors in torch files and live modules: PyTorch's own dequantize is the oracle."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import layerscope
from layerscope.sources import opening
from tests.requirements import require

torch: Any = require("torch")
pytestmark = pytest.mark.filterwarnings("ignore:.*quantized tensor creation functions")


def values(target: Any) -> dict[str, np.ndarray]:
    with opening.opened_source(target) as source:
        return {ref.name: np.asarray(source.read(ref)) for ref in source.layers() if not ref.skipped}


def quantized_net() -> Any:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(64, 80), torch.nn.ReLU(), torch.nn.Linear(80, 50))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(net, {torch.nn.Linear}, dtype=torch.qint8)


@pytest.mark.parametrize("where", ["file", "live"])
def test_dynamic_quantization_has_its_weights(tmp_path: Path, where: str) -> None:
    net = quantized_net()
    torch.save(net.state_dict(), tmp_path / "net.pt")
    found = values(tmp_path / "net.pt" if where == "file" else net)
    assert list(found) == ["0.weight", "2.weight"]
    for place in (0, 2):
        expected = net[place].weight().dequantize().numpy()
        np.testing.assert_allclose(found[f"{place}.weight"], expected, rtol=1e-6)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("axis", [None, 0, 1])
@pytest.mark.parametrize("dtype", ["qint8", "quint8", "qint32"])
def test_quantized_tensors_in_both_kinds_of_files(tmp_path: Path, dtype: str, axis: int | None, legacy: bool) -> None:
    kind, weight = getattr(torch, dtype), torch.randn(60, 50)
    if axis is None:
        quantized = torch.quantize_per_tensor(weight, 0.05, 3, kind)
    else:
        scales, zeros = torch.rand(weight.shape[axis]) / 20 + 0.01, torch.arange(weight.shape[axis]) % 7
        quantized = torch.quantize_per_channel(weight, scales, zeros, axis, kind)
    torch.save({"fc.weight": quantized}, tmp_path / "net.pt", _use_new_zipfile_serialization=not legacy)
    [found] = values(tmp_path / "net.pt").values()
    np.testing.assert_allclose(found, quantized.dequantize().numpy(), rtol=1e-5, atol=1e-6)


class Wrapper(torch.Tensor):
    """A tensor subclass that only wraps others, pickled as torchao's classes and DTensor are."""

    @staticmethod
    def __new__(cls, shape: tuple[int, ...], **parts: Any) -> Any:
        return torch.Tensor._make_wrapper_subclass(cls, shape, dtype=torch.float32)

    def __init__(self, shape: tuple[int, ...], **parts: Any) -> None:
        self.__dict__.update(parts)

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return args[0]


def wrapper(name: str, shape: tuple[int, ...], **parts: Any) -> Any:
    kind = type(name, (Wrapper,), {"__module__": __name__})
    globals()[name] = kind
    return kind(shape, **parts)


@pytest.mark.parametrize("block", [50, 10])
def test_torchao_codes_with_scales_per_row_or_block(tmp_path: Path, block: int) -> None:
    codes = torch.randint(-100, 100, (60, 50), dtype=torch.int8)
    scale, zero = torch.rand(60, 50 // block), torch.randint(-3, 3, (60, 50 // block), dtype=torch.int8)
    weight = wrapper("Int8Tensor", (60, 50), qdata=codes, scale=scale, zero_point=zero, act_pre_scale=None)
    torch.save({"fc.weight": weight}, tmp_path / "net.pt")
    [found] = values(tmp_path / "net.pt").values()
    spread = [part.repeat_interleave(block, 1) for part in (scale, zero)]
    np.testing.assert_allclose(found, (codes.float() - spread[1]) * spread[0], rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "parts", "reason"),
    [
        ("Int4Tensor", {"qdata": (60, 25), "scale": (2, 60)}, "quantized as torchao's Int4Tensor, not decoded"),
        ("Int8Tensor", {"qdata": (60, 50), "scale": (60, 1), "act_pre_scale": (50,)}, "not decoded"),
        ("DTensor", {"_local_tensor": (30, 50)}, "one rank's part of a distributed tensor"),
    ],
)
def test_wrappers_that_are_not_decoded_have_a_row_with_the_reason(
    tmp_path: Path, name: str, parts: dict[str, tuple[int, ...]], reason: str
) -> None:
    tensors = {key: torch.ones(shape) for key, shape in parts.items()}
    torch.save({"fc.weight": wrapper(name, (60, 50), **tensors)}, tmp_path / "net.pt")
    [row] = layerscope.describe(tmp_path / "net.pt").rows
    assert (row.name, row.ref.shape) == ("fc.weight", (60, 50))
    assert reason in row.skipped


def test_a_distributed_tensor_that_one_rank_has_whole_is_read(tmp_path: Path) -> None:
    whole = torch.randn(60, 50)
    torch.save({"fc.weight": wrapper("DTensor", (60, 50), _local_tensor=whole)}, tmp_path / "net.pt")
    np.testing.assert_array_equal(values(tmp_path / "net.pt")["fc.weight"], whole.numpy())


def test_a_jagged_tensor_has_a_row(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        jagged = torch.nested.nested_tensor([torch.randn(2, 3), torch.randn(4, 3)], layout=torch.jagged)
        torch.save({"a.weight": torch.randn(9, 9), "nj": jagged}, tmp_path / "net.pt")
    rows = {row.name: row.skipped for row in layerscope.describe(tmp_path / "net.pt").rows}
    assert list(rows) == ["a.weight", "nj"]
    assert "a nested tensor" in rows["nj"]
