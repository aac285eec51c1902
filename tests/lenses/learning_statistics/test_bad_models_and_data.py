"""Models, data and losses that are wrong: one clear line, and the model exactly as it was found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import layerscope
from layerscope.errors import LayerscopeError
from tests.requirements import require

torch: Any = require("torch")
from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402


def net() -> Any:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))


class Detached(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(8, 3)

    def forward(self, x: Any) -> Any:
        return self.a(x).detach()


class Overwritten(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Any) -> Any:
        return self.b(self.a(x).relu_().mul_(2))


def raising() -> Any:
    yield X, Y
    raise OSError("the disk is gone")


torch.manual_seed(1)
X, Y = torch.randn(50, 8), torch.randint(3, (50,))
CASES: dict[str, tuple[Callable[[], Any], Callable[[], Any], dict[str, Any], str]] = {
    "one example in training mode": (net, lambda: (X[:1], Y[:1]), {}, "more than 1 value per channel"),
    "detached": (Detached, lambda: (X, Y), {}, "does not depend on the model's weights"),
    "overwritten in place": (Overwritten, lambda: (X, Y), {}, "modified by an inplace operation"),
    "no batch": (net, list, {}, "no batch"),
    "an empty batch": (lambda: net().eval(), lambda: (X[:0], Y[:0]), {}, "no (batch|example)"),
    "a loader that raises": (net, raising, {}, "the data: OSError: the disk is gone"),
    "no loader": (net, lambda: 5, {}, "not iterable"),
    "labels out of range": (net, lambda: (X, Y + 5), {}, "labels from 5 to 7; with 3 outputs they must be from 0 to 2"),
    "labels that are floats": (net, lambda: (X, Y.float()), {}, "labels are float32"),
    "too few labels": (net, lambda: (X, Y[:10]), {}, "outputs have shape \\(50, 3\\) and labels have shape \\(10,\\)"),
    "a list of two tensors": (net, lambda: [X, Y], {}, "one batch as a tuple \\(x, y\\)"),
    "a batch that is a dict": (net, lambda: [{"x": X}], {}, "give forward="),
    "a forward of three": (net, lambda: (X, Y), {"forward": lambda m, b: (m(b[0]), b[1], 3)}, "too many values"),
    "a loss that is a mean": (
        net,
        lambda: (X, Y),
        {"loss": functional.cross_entropy},
        "not one value for each example",
    ),
    "a loss that raises": (net, lambda: (X, Y), {"loss": lambda o, y: 1 / 0}, "the loss: ZeroDivisionError"),
    "a constant loss": (net, lambda: (X, Y), {"loss": lambda o, y: torch.zeros(50)}, "does not depend"),
    "mse of classes": (
        net,
        lambda: (X, Y),
        {"loss": "mse"},
        "outputs have shape \\(50, 3\\) and targets have shape \\(50,\\)",
    ),
    "another width": (net, lambda: (X[:, :3], Y), {}, "the model on batch 0: RuntimeError: mat1 and mat2"),
    "another type": (net, lambda: (X.long(), Y), {}, "the model on batch 0"),
    "no layer": (lambda: nn.Sequential(nn.ReLU()), lambda: (X, Y), {}, "no (linear|parameters)"),
    "a lazy layer": (lambda: nn.Sequential(nn.LazyLinear(3)), lambda: (X, Y), {}, "has no shape yet"),
}


def state(model: Any) -> list[Any]:
    tensors = [t.clone() for t in model.state_dict().values() if not nn.parameter.is_lazy(t)]
    modules = [(m.training, len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()]
    return [tensors, [(p.grad, p.requires_grad) for p in model.parameters()], modules, torch.get_rng_state()]


def same(one: list[Any], other: list[Any]) -> bool:
    equal = all(torch.equal(a, b) for a, b in zip(one[0], other[0], strict=True))
    return equal and one[1:3] == other[1:3] and torch.equal(one[3], other[3])


@pytest.mark.parametrize("call", [layerscope.conditioning, layerscope.curvature])
@pytest.mark.parametrize("case", CASES)
def test_one_line_and_nothing_left_behind(case: str, call: Any) -> None:
    make, data, options, said = CASES[case]
    model = make()
    before = state(model)
    with pytest.raises(LayerscopeError, match=said) as error:
        call(model, data(), **options)
    assert "factors_torch" not in str(error.value)
    assert same(before, state(model))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_models_are_measured_and_left_narrow(dtype: Any) -> None:
    model = net().to(dtype)
    before = state(model)
    report = layerscope.conditioning(model, (X.to(dtype), Y))
    wide = layerscope.conditioning(net(), (X, Y))
    for name in ("lambda_max_x", "lambda_max_d", "domination"):
        own, truth = (r.layers["3.weight"].metrics[name] for r in (report, wide))
        assert own == pytest.approx(truth, rel=0.05)
    assert same(before, state(model))


def test_values_that_are_not_finite_are_the_layers_reason() -> None:
    report = layerscope.conditioning(net(), (X * float("nan"), Y))
    assert {row.skipped for row in report.rows if len(row.ref.shape) > 1} == {"some inputs are not finite"}
    with pytest.raises(LayerscopeError, match="the mean loss is nan"):
        layerscope.curvature(net(), (X * float("nan"), Y))


def test_frozen_models_and_no_grad_are_no_obstacle() -> None:
    model = net()
    for p in model.parameters():
        p.requires_grad_(False)
    with torch.no_grad():
        frozen = layerscope.conditioning(model, (X, Y))
    truth = layerscope.conditioning(net(), (X, Y))
    assert [row.metrics for row in frozen.rows] == [row.metrics for row in truth.rows]
    assert layerscope.curvature(model, (X, Y)).values == pytest.approx(layerscope.curvature(net(), (X, Y)).values)


def test_fewer_examples_than_directions_have_no_condition_number() -> None:
    row = layerscope.conditioning(net(), (X[:4], Y[:4])).layers["0.weight"]
    assert row.metrics["rank_x"] == 4
    assert "fewer than 80 %" in row.absent["kappa_80_x"]


def test_without_torch_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from layerscope.errors import MissingExtra

    model = net()
    evaluator = layerscope.TorchEvaluator
    monkeypatch.setitem(sys.modules, "torch", None)
    for call in (layerscope.conditioning, layerscope.curvature, evaluator):
        with pytest.raises(MissingExtra, match=r"layerscope\[torch\]"):
            call(model, (X, Y))
