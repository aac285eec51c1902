"""The same tiny net in every format gives the same report: names may differ, numbers may not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import layerscope
from layerscope import registry

torch = pytest.importorskip("torch")


class Net(torch.nn.Module):  # type: ignore[misc,name-defined]
    """One layer of each kind that a state dict tells apart by name."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(120, 64)
        self.conv = torch.nn.Conv2d(16, 32, 3)
        self.attention = torch.nn.MultiheadAttention(64, 4)
        self.rnn = torch.nn.LSTM(64, 60)
        self.fc = torch.nn.Linear(64, 80)
        self.norm = torch.nn.LayerNorm(80)


def as_module(net: Net, folder: Path) -> Any:
    return net


def as_arrays(net: Net, folder: Path) -> Any:
    return {name: tensor.numpy() for name, tensor in net.state_dict().items()}


def as_npz(net: Net, folder: Path) -> Any:
    np.savez(folder / "net.npz", **as_arrays(net, folder))
    return folder / "net.npz"


def as_safetensors(net: Net, folder: Path) -> Any:
    from safetensors.torch import save_file

    save_file(net.state_dict(), folder / "net.safetensors")
    return folder / "net.safetensors"


def as_huggingface(net: Net, folder: Path) -> Any:
    as_safetensors(net, folder).rename(folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "none"}))
    return folder


def as_torch_file(net: Net, folder: Path) -> Any:
    torch.save(net.state_dict(), folder / "net.pt")
    return folder / "net.pt"


FORMATS: dict[str, Callable[[Net, Path], Any]] = {
    "torch_module": as_module,
    "arrays": as_arrays,
    "npz": as_npz,
    "safetensors": as_safetensors,
    "huggingface": as_huggingface,
    "torch_file": as_torch_file,
}


COMPOSED = {"delta", "intra", "lora", "stacked"}  # made of other sources: tests/sources/test_composed.py


def test_every_source_is_in_the_contract() -> None:
    assert set(FORMATS) | COMPOSED == set(registry.plugins("sources"))


@pytest.mark.parametrize("name", FORMATS)
def test_the_same_net_gives_the_same_report(tmp_path: Path, name: str) -> None:
    torch.manual_seed(0)
    net = Net()
    target = FORMATS[name](net, tmp_path)
    report = layerscope.analyze(target)
    reference = layerscope.analyze(dict(net.state_dict()))
    assert report.meta["format"] == name
    found, expected = ({row.name: row for row in r.rows} for r in (report, reference))
    assert found.keys() == expected.keys()
    for layer, row in expected.items():
        assert found[layer].metrics == row.metrics, layer
        assert found[layer].ref.kind == row.ref.kind
        assert bool(found[layer].skipped) == bool(row.skipped)


@pytest.mark.parametrize("name", FORMATS)
def test_describe_needs_headers_only_and_agrees_with_analyze(tmp_path: Path, name: str) -> None:
    target = FORMATS[name](Net(), tmp_path)
    described, analysed = layerscope.describe(target), layerscope.analyze(target)
    ours = layerscope.views.frame.rows(described)
    theirs = layerscope.views.frame.rows(analysed)
    for a, b in zip(ours, theirs, strict=True):
        assert {k: a[k] for k in ("layer_id", "name", "N", "M", "rf")} == {
            k: b[k] for k in ("layer_id", "name", "N", "M", "rf")
        }


@pytest.mark.parametrize("name", FORMATS)
def test_portable_sources_open_again_from_their_spec(tmp_path: Path, name: str) -> None:
    import pickle

    from layerscope.sources import open_target

    source = open_target(FORMATS[name](Net(), tmp_path))
    assert source.spec.portable == registry.find("sources", name).target.PORTABLE
    if source.spec.portable:
        again = registry.find("sources", name).target.open(pickle.loads(pickle.dumps(source.spec)).target)
        assert list(again.layers()) == list(source.layers())
    for ref in source.layers():
        assert json.dumps(ref.shape)
        assert pickle.loads(pickle.dumps(ref)) == ref
