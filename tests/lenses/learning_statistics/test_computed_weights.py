"""Conditioning of weights that a module computes, of models that return dicts, and of compiled models."""

from __future__ import annotations

import copy
import warnings
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import layerscope
from layerscope.sources import opening
from tests.command_line import cli
from tests.requirements import require

torch: Any = require("torch")
prune: Any = require("torch.nn.utils.prune")
nn: Any = torch.nn

FORMS = {
    "weight_norm": lambda m: nn.utils.weight_norm(m),
    "spectral_norm": lambda m: nn.utils.spectral_norm(m),
    "pruned": lambda m: prune.l1_unstructured(m, "weight", amount=0.5),
    "parametrized weight_norm": lambda m: nn.utils.parametrizations.weight_norm(m),
    "parametrized spectral_norm": lambda m: nn.utils.parametrizations.spectral_norm(m),
    "orthogonal": lambda m: nn.utils.parametrizations.orthogonal(m),
}


def layers(kind: str) -> list[Any]:
    torch.manual_seed(1)
    if kind == "dense":
        return [nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)]
    return [nn.Unflatten(1, (2, 4)), nn.Conv1d(2, 6, 3, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(12, 4)]


def formed(kind: str, form: str) -> Any:
    net = nn.Sequential(*layers(kind))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for layer in net:
            if hasattr(layer, "weight"):
                FORMS[form](layer)
    net(torch.randn(5, 8))
    return net.eval()


def batch() -> tuple[Any, Any]:
    torch.manual_seed(0)
    return torch.randn(60, 8), torch.randint(4, (60,))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["dense", "grouped convolution"])
def test_a_computed_weight_is_measured_as_a_stored_one(kind: str, form: str) -> None:
    net, plain = formed(kind, form), nn.Sequential(*layers(kind))
    with opening.opened_source(net) as source, torch.no_grad():
        for ref in source.layers():
            if not ref.skipped:
                plain.get_parameter(ref.name).copy_(torch.from_numpy(np.array(source.read(ref))))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    found, expected = (layerscope.conditioning(model, batch()).layers for model in (net, plain))
    measured = [name for name, layer in expected.items() if layer.metrics]
    assert len(measured) == 2
    for name in measured:
        for metric, value in expected[name].metrics.items():
            wanted = value if isinstance(value, str) else pytest.approx(value, rel=1e-5)
            assert found[name].metrics[metric] == wanted, (name, metric)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


@pytest.mark.parametrize("form", FORMS)
def test_models_with_computed_weights_have_a_landscape(form: str) -> None:
    net, (x, y) = formed("dense", form), batch()
    other = formed("dense", form)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    net(x)  # leaves weights with a graph in the modules
    line = layerscope.line(net, other, layerscope.TorchEvaluator(net, (x, y)), points=3)
    with torch.no_grad():
        expected = float(nn.functional.cross_entropy(net(x), y))
    assert line.metrics["loss"][0] == pytest.approx(expected, rel=1e-5)


class Wrapped(nn.Module):  # type: ignore[misc]
    """Returns its logits inside of something."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.a, self.b, self.form = nn.Linear(8, 16), nn.Linear(16, 4), form

    def forward(self, x: Any) -> Any:
        out = self.b(self.a(x).relu())
        return {
            "dict": {"logits": out, "hidden": x},
            "tuple": (out, None),
            "object": SimpleNamespace(loss=None, logits=out),
            "unclear": {"scores": out, "hidden": x},
        }[self.form]


@pytest.mark.parametrize("form", ["dict", "tuple", "object"])
def test_outputs_that_hold_the_logits(form: str) -> None:
    x, y = batch()
    torch.manual_seed(0)
    net, other = Wrapped(form), Wrapped(form)
    plain = copy.deepcopy(net)
    plain.form = "dict"
    tensors = layerscope.TorchEvaluator(plain, (x, y), forward=lambda model, inputs: model(inputs)["logits"])
    found = layerscope.line(net, other, layerscope.TorchEvaluator(net, (x, y)), points=3)
    expected = layerscope.line(plain, other, tensors, points=3)
    np.testing.assert_allclose(found.metrics["loss"], expected.metrics["loss"], rtol=1e-6)
    assert layerscope.conditioning(net, (x, y)).layers["b.weight"].metrics["lambda_max_x"] > 0
    assert layerscope.curvature(net, (x, y)).values[0] > 0
    assert layerscope.align(net, net, other, x).groups == 1


def test_unclear_outputs_are_one_line(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = batch()
    calls = (
        lambda net: layerscope.conditioning(net, (x, y)),
        lambda net: layerscope.curvature(net, (x, y)),
        lambda net: layerscope.line(net, net, layerscope.TorchEvaluator(net, (x, y))),
        lambda net: layerscope.align(net, net, net, x),
    )
    for call in calls:
        with pytest.raises(layerscope.UsageError, match="returns a dict with scores, hidden.*forward="):
            call(Wrapped("unclear"))
    (tmp_path / "mine_wrapped.py").write_text(
        "import torch\nfrom tests.lenses.learning_statistics.test_computed_weights import Wrapped, batch\n"
        "def build(): return Wrapped('unclear')\n"
        "def scores(net, pair): return net(pair[0])['scores'], pair[1]\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    words = ("conditioning", "mine_wrapped:build", "--data", "mine_wrapped:batch")
    refused = cli(*words)
    assert refused.returncode == 2
    assert "--forward" in refused.stderr
    accepted = cli(*words, "--forward", "mine_wrapped:scores", "-f", "csv")
    assert accepted.returncode == 0, accepted.stderr
    assert "b.weight" in accepted.stdout


def test_compiled_models_are_measured_without_new_graphs() -> None:
    dynamo = pytest.importorskip("torch._dynamo")

    def graphs() -> int:
        return int(dynamo.utils.counters["stats"].get("unique_graphs", 0))

    x, y = batch()
    inner = nn.Sequential(*layers("dense"))
    inner[0] = torch.compile(inner[0], backend="eager")
    whole, in_place = (nn.Sequential(*layers("dense")) for _ in range(2))
    in_place.compile(backend="eager")
    for net in (torch.compile(whole, backend="eager"), in_place, inner):
        net(x)
        before, other = graphs(), nn.Sequential(*layers("dense"))
        layerscope.conditioning(net, (x, y))
        layerscope.curvature(net, (x, y))
        layerscope.line(net, other, layerscope.TorchEvaluator(net, (x, y)), points=3)
        assert graphs() == before
        net(x)
        assert graphs() == before  # still compiled as it was


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("use", ["once", "twice", "transposed"])
def test_the_gradient_of_a_computed_weight_that_is_used_elsewhere_is_not_guessed(form: str, use: str) -> None:
    class Net(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.a, self.h = FORMS[form](nn.Linear(6, 6)), nn.Linear(6, 3)

        def forward(self, x: Any) -> Any:
            hidden = torch.tanh(self.a(x))
            if use == "twice":
                hidden = torch.tanh(self.a(hidden))
            if use == "transposed":
                hidden = nn.functional.linear(hidden, self.a.weight.T)
            return self.h(hidden)

    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = Net().double()
    x, y = torch.randn(20, 6).double(), torch.randint(3, (20,))
    net(x)
    layer = layerscope.conditioning(net.eval(), (x, y)).layers["a.weight"]
    assert ("grad_sigma_max" in layer.metrics) == (use != "transposed")
    if use == "transposed":
        assert "used outside of its layer" in layer.absent["domination"]
        assert layer.metrics["lambda_max_d"] > 0


def test_inputs_in_a_dict_are_named() -> None:
    x, y = batch()
    with pytest.raises(layerscope.UsageError, match=r"x is a dict with input_ids; .*forward="):
        layerscope.TorchEvaluator(nn.Linear(8, 4), ({"input_ids": x}, y))
