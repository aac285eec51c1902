"""The code that people have, with one import changed: the analysis parts of three published walk-throughs."""

from __future__ import annotations

import gzip
import warnings
from pathlib import Path
from typing import Any

import numpy as np

import layerscope.weightwatcher as ww
from tests.requirements import require

torch = require("torch")
nn = torch.nn


def test_is_your_layer_over_trained() -> None:
    """A three-layer MLP, described, and one of its layers analysed."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10))

    watcher = ww.WeightWatcher(model=model)
    description = watcher.describe()
    assert list(description["layer_id"]) == [1, 3, 5]
    assert list(zip(description["N"], description["M"], strict=True)) == [(784, 300), (300, 100), (100, 10)]

    results = watcher.analyze(layers=[3])
    assert list(results["layer_id"]) == [3]
    assert results["num_evals"][0] == 100  # "It will have 100 eigenvalues"
    assert results["alpha"][0] > 2


class Conv1D(nn.Module):  # type: ignore[misc,name-defined]
    """As in transformers: a linear layer whose weight is stored (in, out)."""

    def __init__(self, nx: int, nf: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.02 * torch.randn(nx, nf))
        self.bias = nn.Parameter(torch.zeros(nf))


class Block(nn.Module):  # type: ignore[misc,name-defined]
    def __init__(self, width: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.c_attn, self.c_proj = Conv1D(width, 3 * width), Conv1D(width, width)
        self.c_fc, self.c_out = Conv1D(width, 4 * width), Conv1D(4 * width, width)


class GPT(nn.Module):  # type: ignore[misc,name-defined]
    def __init__(self, width: int = 96, blocks: int = 3, correlated: float = 0.0) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(400, width), nn.Embedding(128, width)
        self.h = nn.ModuleList(Block(width) for _ in range(blocks))
        for module in self.modules():
            if isinstance(module, Conv1D) and correlated:
                u, s, v = torch.linalg.svd(module.weight.detach(), full_matrices=False)
                module.weight.data = (u * s * torch.arange(1, len(s) + 1) ** -correlated) @ v


def test_compare_gpt_with_gpt2() -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    torch.manual_seed(0)
    gpt_model, gpt2_model = GPT(correlated=0.3), GPT(correlated=0.9)
    gpt_model.eval()
    gpt2_model.eval()

    watcher = ww.WeightWatcher(model=gpt_model)
    gpt_details = watcher.analyze()
    watcher = ww.WeightWatcher(model=gpt2_model)
    gpt2_details = watcher.analyze()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gpt_details.alpha.plot.hist(bins=100, color="red", alpha=0.5, density=True, label="gpt")
        gpt2_details.alpha.plot.hist(bins=100, color="green", density=True, label="gpt2")
        plt.xlabel(r"alpha $(\alpha)$ PL exponent")
        plt.legend()
        plt.close("all")

    assert len(gpt_details) == 2 + 4 * 3
    fused = gpt_details[gpt_details.longname == "h.0.c_attn"].iloc[0]
    assert (fused.N, fused.M, fused.layer_type) == (288, 96, "dense")
    blocks = gpt_details.layer_type == "dense"
    assert gpt2_details[blocks].alpha.mean() < gpt_details[blocks].alpha.mean()


class GCF:
    LR, BS, N_EPOCH, SEED, MLP_UNIT = 1e-3, 32, 2, 0, 64


class MnistClassifier(nn.Module):  # type: ignore[misc,name-defined]
    def __init__(self) -> None:
        super().__init__()
        self.layer1 = nn.Linear(28 * 28, GCF.MLP_UNIT)
        self.activation1 = nn.ReLU()
        self.layer2 = nn.Linear(GCF.MLP_UNIT, GCF.MLP_UNIT)
        self.activation2 = nn.ReLU()
        self.layer3 = nn.Linear(GCF.MLP_UNIT, 10)

    def forward(self, x: Any) -> Any:
        h = self.layer1(x.view(-1, 28 * 28))
        h = self.activation1(h)
        h = self.layer2(h)
        h = self.activation2(h)
        return self.layer3(h)


def mnist(folder: Path, count: int) -> tuple[Any, Any]:
    with gzip.open(folder / "t10k-images-idx3-ubyte.gz") as file:
        images = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 1, 28, 28)
    with gzip.open(folder / "t10k-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read(), np.uint8, offset=8)
    return torch.tensor(images[:count] / 255, dtype=torch.float32), torch.tensor(labels[:count].astype(np.int64))


def test_rand_distance_while_a_model_trains(shared: Path) -> None:
    """The watcher is made once, before training, and sees the weights as they are at each epoch."""
    torch.manual_seed(GCF.SEED)
    images, labels = mnist(shared / "data" / "mnist", 2000)
    model = MnistClassifier()
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=GCF.LR)

    watcher = ww.WeightWatcher(model=model)

    untrained = watcher.analyze(randomize=True).rand_distance.mean()
    history = []
    for _ in range(GCF.N_EPOCH):
        for batch in torch.randperm(len(images)).split(GCF.BS):
            loss = criterion(model(images[batch]), labels[batch])
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

        details = watcher.analyze(randomize=True)
        avg_rand_distance = details.rand_distance.mean()
        history.append({"rand_distance": avg_rand_distance, "loss": float(loss.detach())})

    assert untrained < history[0]["rand_distance"] < history[1]["rand_distance"]
    assert list(details.longname) == ["layer1", "layer2", "layer3"]
