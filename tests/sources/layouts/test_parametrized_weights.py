"""Pruned, weight-normalized and spectrally normalized weights are formed from files as the module forms them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import layerscope
from layerscope.sources.opening import open_target
from tests.requirements import require

torch: Any = require("torch")
from torch import nn  # noqa: E402
from torch.nn.utils import prune  # noqa: E402


def pruned() -> Any:
    net = nn.Sequential(nn.Linear(40, 60))
    prune.l1_unstructured(net[0], "weight", amount=0.9)
    return net


def old_spectral(layer: Any, shape: tuple[int, ...]) -> Any:
    net = nn.Sequential(layer)
    nn.utils.spectral_norm(net[0])
    for _ in range(20):
        net(torch.randn(4, *shape))
    net.eval()
    net(torch.randn(4, *shape))
    return net


def new_spectral() -> Any:
    net = nn.Sequential(nn.Linear(40, 60))
    nn.utils.parametrizations.spectral_norm(net[0])
    for _ in range(20):
        net(torch.randn(4, 40))
    return net.eval()


def weight_norm(make: Any, layer: Any, **options: Any) -> Any:
    return nn.Sequential(make(layer, **options))


OLD, NEW = nn.utils.weight_norm, nn.utils.parametrizations.weight_norm
MODELS = {
    "pruned": pruned,
    "old spectral norm": lambda: old_spectral(nn.Linear(40, 60), (40,)),
    "old spectral norm, transposed": lambda: old_spectral(nn.ConvTranspose2d(8, 12, 3), (8, 5, 5)),
    "new spectral norm": new_spectral,
    "old weight norm": lambda: weight_norm(OLD, nn.Linear(40, 60)),
    "old weight norm, one g": lambda: weight_norm(OLD, nn.Conv2d(8, 12, 3), dim=None),
    "new weight norm over inputs": lambda: weight_norm(NEW, nn.Conv2d(8, 12, 3), dim=1),
    "float16": lambda: weight_norm(NEW, nn.Linear(40, 60)).half(),
}
REGISTERED = ("new spectral norm", "new weight norm over inputs", "float16")  # through nn.utils.parametrizations


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("kind", ["pt", "safetensors", "npz", "whole"])
@pytest.mark.parametrize("name", MODELS)
def test_a_file_gives_the_module_s_own_weight(tmp_path: Path, name: str, kind: str) -> None:
    torch.manual_seed(0)
    net = MODELS[name]()
    state = {key: value.detach().clone().contiguous() for key, value in net.state_dict().items()}
    file = tmp_path / f"model.{'pt' if kind == 'whole' else kind}"
    if kind == "safetensors":
        from safetensors.torch import save_file

        save_file(state, file)
    elif kind == "npz":
        np.savez(file, **{key: value.numpy() for key, value in state.items()})
    else:
        if kind == "whole" and name in REGISTERED:
            with pytest.raises(RuntimeError, match="parametrized"):  # torch does not pickle such a module as a whole
                torch.save(net, file)
            return
        torch.save(net if kind == "whole" else state, file)
    source = open_target(file)
    refs = {ref.name: ref for ref in source.layers()}
    expected = net[0].weight.detach().numpy()
    found = np.asarray(source.read(refs["0.weight"]))
    assert found.dtype == expected.dtype
    np.testing.assert_allclose(found, expected, rtol=2e-3 if found.dtype == np.float16 else 2e-6, atol=1e-7)
    others = {key: ref.skipped for key, ref in refs.items() if key not in ("0.weight", "0.bias")}
    assert set(others) == state.keys() - {"0.bias"}
    assert set(others.values()) == {"part of 0.weight"}
    assert [row.name for row in layerscope.analyze(file, min_evals=5).rows if not row.skipped] == ["0.weight"]


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("name", MODELS)
def test_a_live_model_gives_the_weight_of_its_forward_pass(name: str) -> None:
    torch.manual_seed(0)
    net = MODELS[name]()
    source = open_target(net)
    usable = {ref.name: ref for ref in source.layers() if not ref.skipped}
    assert list(usable) == ["0.weight"]
    found = np.asarray(source.read(usable["0.weight"]))
    np.testing.assert_allclose(found, net[0].weight.detach().numpy(), rtol=2e-3 if "16" in name else 2e-6, atol=1e-7)


def test_a_pruned_weight_follows_its_parameter() -> None:
    net = pruned()
    with torch.no_grad():
        net[0].weight_orig.mul_(3)  # the module's own copy is renewed in the next forward pass only
    report = layerscope.analyze(net, min_evals=5)
    expected = np.linalg.svd((net[0].weight_orig * net[0].weight_mask).detach().numpy(), compute_uv=False)[0] ** 2
    assert report.layers["0.weight"].metrics["lambda_max"] == pytest.approx(expected, rel=1e-5)


def test_distances_are_those_of_the_effective_weights(tmp_path: Path) -> None:
    models = {}
    for seed in (1, 2):
        torch.manual_seed(seed)
        models[str(seed)] = nn.Sequential(NEW(nn.Linear(10, 32)))
        torch.save(models[str(seed)].state_dict(), tmp_path / f"{seed}.pt")
    first, second = (torch.cat([m[0].weight.flatten(), m[0].bias]).detach().numpy() for m in models.values())
    expected = float(np.linalg.norm(first - second))
    assert layerscope.distances(models).matrix("l2")[0, 1] == pytest.approx(expected, rel=1e-6)
    files = layerscope.distances([tmp_path / "1.pt", tmp_path / "2.pt"])
    assert files.matrix("l2")[0, 1] == pytest.approx(expected, rel=1e-6)


def test_a_file_and_a_live_model_have_the_same_parameters(tmp_path: Path) -> None:
    from layerscope.sources.model_weights import weights_of

    net = nn.Sequential(NEW(nn.Linear(6, 4)))
    torch.save(net.state_dict(), tmp_path / "m.pt")
    stored, live = weights_of(tmp_path / "m.pt"), weights_of(net)
    assert stored.keys() == live.keys()
    data = torch.randn(20, 6), torch.randint(4, (20,))
    evaluate = layerscope.TorchEvaluator(net, data)
    assert layerscope.line(tmp_path / "m.pt", net, evaluate, points=3).barrier().value == pytest.approx(0, abs=1e-6)


def test_ingredients_that_do_not_fit_are_left_alone() -> None:
    shapes = {"a.weight_orig": (6, 5), "a.weight_mask": (5, 6), "b.weight_orig": (6, 5), "b.weight_u": (4,),
              "b.weight_v": (5,), "c.proj_v": (6, 5), "c.proj_g": (6, 5, 1), "d.weight": (6, 5),
              "d.weight_orig": (6, 5), "d.weight_mask": (6, 5)}  # fmt: skip
    described = layerscope.describe({name: np.ones(shape, np.float32) for name, shape in shapes.items()})
    assert "a.weight" not in described.layers
    assert "b.weight" not in described.layers
    assert "c.proj" not in described.layers
    assert [row.name for row in described.rows].count("d.weight") == 1
