"""weightwatcher 0.7.7 on every shared model, in its own settings."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import layerscope
from layerscope import Settings
from layerscope.records.layers import LayerReport

EXACT = ("N", "M", "rf", "num_evals")
SCALE = ("lambda_max", "log_norm", "log_spectral_norm", "stable_rank", "entropy", "sv_max")
SHAPE = ("alpha", "xmin", "xmax", "D", "sigma", "num_pl_spikes", "alpha_weighted", "log_alpha_norm")
SMALL_BRANCH = 20  # eigenvalues below which 0.7.7 switches to another estimator (a defect: α jumps there)
# 0.7.7 counts the rounding noise of its SVD as rank where weight decay has emptied whole channels (weights of 1e-35
# beside 1e-1), and divides the entropy by the logarithm of that count.
NOISE_AS_RANK = {
    ("epoch027_valacc0.62.safetensors", "conv2d_2_1_kernel"),
    ("epoch070_valacc0.63.safetensors", "conv2d_2_1_kernel"),
}


def llama2c(path: Path) -> dict[str, np.ndarray]:
    """Tensors of a llama2.c file: seven integers, then float32 in a fixed order."""
    raw = path.read_bytes()
    dim, hidden, n_layers, heads, kv_heads, vocab, _ = struct.unpack("7i", raw[:28])
    data, at = np.frombuffer(raw, np.float32, offset=28), 0
    kv = dim // heads * kv_heads
    layout = [("attn_norm", (dim,)), ("wq", (dim, dim)), ("wk", (kv, dim)), ("wv", (kv, dim)), ("wo", (dim, dim)),
              ("ffn_norm", (dim,)), ("w1", (hidden, dim)), ("w2", (dim, hidden)), ("w3", (hidden, dim))]  # fmt: skip
    tensors = {"tok_embeddings": data[: vocab * dim].reshape(vocab, dim)}
    at = vocab * dim
    for name, shape in layout:
        for layer in range(n_layers):
            size = int(np.prod(shape))
            tensors[f"layers.{layer}.{name}"] = data[at : at + size].reshape(shape)
            at += size
    return tensors


def found_by(name: str, layers: dict[str, LayerReport]) -> LayerReport:
    for candidate in (name, f"{name}_weight", name.replace("_1_pointwise_kernel", "_pointwise_weight"),
                      name.replace("_1_kernel", "_weight"), name.replace("_embedding", "_embeddings")):  # fmt: skip
        if candidate in layers:
            return layers[candidate]
    raise KeyError(name)


def cases() -> list[str]:
    from tests.conftest import SHARED

    path = SHARED / "weightwatcher_0.7.7.json"
    return list(json.loads(path.read_text())["models"]) if path.exists() else ["none"]


@pytest.mark.parametrize("model", cases())
def test_parity_on_real_models(shared: Path, model: str) -> None:
    known: list[dict[str, Any]] = json.loads((shared / "weightwatcher_0.7.7.json").read_text())["models"][model][
        "layers"
    ]
    path = shared / model
    target: Any = llama2c(path) if path.name == "stories260K.bin" else path
    report = layerscope.analyze(target, settings=Settings.weightwatcher())
    layers = {row.name.removeprefix("module.").replace(".", "_"): row for row in report.rows}
    for theirs in known:
        name = theirs["longname"]
        ours = found_by(name, layers)
        spectrum = ours.spectrum
        assert spectrum is not None, name
        sizes = {"N": spectrum.n, "M": spectrum.m, "rf": spectrum.k, "num_evals": len(spectrum.evals)}
        assert sizes == {key: theirs[key] for key in EXACT}, name
        compared = list(SCALE) + (list(SHAPE) if theirs["num_evals"] >= SMALL_BRANCH and theirs["alpha"] != -1 else [])
        if (path.name, name) in NOISE_AS_RANK:
            compared.remove("entropy")
        for key in compared:
            assert ours.metrics[key] == pytest.approx(theirs[key], rel=1e-4, abs=2e-6), (name, key)


def test_the_factor_on_convolutions_is_only_in_compatible_settings(shared: Path) -> None:
    path = shared / "models" / "cifar10_small" / "cifar_torchvision.pt"
    plain = layerscope.analyze(path).layers["conv2.weight"].metrics["lambda_max"]
    halved = layerscope.analyze(path, settings=Settings.weightwatcher()).layers["conv2.weight"].metrics["lambda_max"]
    assert halved == pytest.approx(plain / 2)
