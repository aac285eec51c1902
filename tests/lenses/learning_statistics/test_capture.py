"""Factors caught by hooks against the same read off each example's own graph, in float64 and without hooks."""

from __future__ import annotations

from typing import Any

import pytest

from tests.requirements import require

torch: Any = require("torch")
from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402

from layerscope.errors import UnknownName, Unreadable, UsageError  # noqa: E402
from layerscope.lenses.learning_statistics.capture import capture  # noqa: E402
from layerscope.lenses.learning_statistics.kfac_hooks import LayerStatistics  # noqa: E402
from layerscope.lenses.learning_statistics.layer_rows import patches  # noqa: E402
from layerscope.live.losses import Loss  # noqa: E402

CE, MSE = Loss.of("cross_entropy"), Loss.of("mse")
WIDE = nn.Linear(6, 101).double()


@pytest.fixture(autouse=True)
def _float64() -> Any:
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def mlp() -> Any:
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))


def data(n: int = 11) -> tuple[Any, Any]:
    return torch.randn(n, 6), torch.randint(3, (n,))


def by_name(entries: list[LayerStatistics]) -> dict[str, LayerStatistics]:
    return {layer.name: layer for layer in entries}


def rows_of(net: Any, x: Any, outputs: list[Any]) -> list[tuple[list[Any], list[Any]]]:
    """(inputs, gradients) of each Linear for each example and each scalar of ``outputs``, by autograd on h itself."""
    rows: list[tuple[list[Any], list[Any]]] = [([], []) for m in net if isinstance(m, nn.Linear)]
    for n in range(len(x)):
        for output in outputs:
            a, hidden, inside = x[n], [], []
            for module in net:
                if isinstance(module, nn.Linear):
                    inside.append(a.detach())
                    h = functional.linear(a, module.weight.detach(), module.bias.detach()).requires_grad_()
                    hidden.append(h)
                    a = h
                else:
                    a = module(a)
            for k, gradient in enumerate(torch.autograd.grad(output(a, n), hidden)):
                rows[k][0].append(inside[k])
                rows[k][1].append(gradient)
    return rows


def test_the_empirical_factors_are_those_of_every_example_alone() -> None:
    net, (x, y) = mlp(), data()
    entries, examples, total = capture(net, [(x, y)], CE)
    truth = rows_of(net, x, [lambda a, n: functional.cross_entropy(a[None], y[n : n + 1])])
    assert examples == 11
    assert total == pytest.approx(float(functional.cross_entropy(net(x), y, reduction="sum").detach()))
    for layer, (inputs, gradients) in zip(entries, truth, strict=True):
        a, d = torch.stack(inputs), torch.stack(gradients)
        s_x, s_d = layer.factors(examples)
        assert torch.allclose(s_x[0], a.T @ a / 11, rtol=1e-10)
        assert torch.allclose(s_d[0], d.T @ d / 11, rtol=1e-10)
        assert torch.allclose(layer.weight_gradient, d.T @ a, rtol=1e-10)
        assert layer.problem == ""


def test_the_exact_fisher_takes_the_expectation_over_labels() -> None:
    net, (x, y) = mlp(), data()
    entries, examples, _ = capture(net, [(x, y)], CE, fisher="exact")
    p = net(x).softmax(1).detach()
    truth = [0.0, 0.0, 0.0]
    for c in range(3):
        label = torch.tensor([c])
        for k, (_, gradients) in enumerate(
            rows_of(net, x, [lambda a, n, label=label: functional.cross_entropy(a[None], label)])
        ):
            d = torch.stack(gradients)
            truth[k] = truth[k] + (d * p[:, c : c + 1]).T @ d / 11
    for layer, s_d in zip(entries, truth, strict=True):
        assert torch.allclose(layer.factors(examples)[1][0], s_d, rtol=1e-10)
    empirical = capture(net, [(x, y)], CE)[0]
    for exact_layer, empirical_layer in zip(entries, empirical, strict=True):
        assert torch.allclose(
            exact_layer.weight_gradient, empirical_layer.weight_gradient
        )  # of the data's loss, whatever the Fisher


def test_drawn_labels_come_near_the_exact_fisher_and_are_seeded() -> None:
    net, (x, y) = mlp(), data()
    exact = capture(net, [(x, y)], CE, fisher="exact")[0]
    draws = [capture(net, [(x, y)], CE, fisher="mc", seed=s)[0] for s in range(300)]
    mean = sum(d[2].factors(11)[1][0] for d in draws) / 300
    assert torch.allclose(mean, exact[2].factors(11)[1][0], atol=0.01)
    again = capture(net, [(x, y)], CE, fisher="mc", seed=7)[0]
    assert torch.equal(again[0].factors(11)[1], draws[7][0].factors(11)[1])


def test_kfac_is_exact_for_linear_nets_and_the_gaussian_fisher() -> None:
    net = nn.Sequential(nn.Linear(4, 5, bias=False), nn.Linear(5, 3, bias=False))
    x, y = torch.randn(9, 4), torch.randn(9, 3)
    entries, examples, _ = capture(net, [(x, y)], MSE, fisher="exact")
    jacobians = [
        torch.autograd.functional.jacobian(lambda w, a=a: net[1](functional.linear(a, w)), net[0].weight) for a in x
    ]
    fisher = sum(j.flatten(1).T @ j.flatten(1) for j in jacobians) / 9
    s_x, s_d = (factor[0] for factor in entries[0].factors(examples))
    assert torch.allclose(torch.kron(s_d.contiguous(), s_x.contiguous()), fisher, rtol=1e-9)


@pytest.mark.parametrize("fisher", ["empirical", "exact", "mc"])
@pytest.mark.parametrize("sizes", [(1, 10), (3, 3, 5), (1,) * 11])
def test_microbatches_are_the_whole_batch(fisher: str, sizes: tuple[int, ...]) -> None:
    net, (x, y) = mlp(), data()
    whole = capture(net, [(x, y)], CE, fisher=fisher)[0]
    parts = capture(net, zip(x.split(list(sizes)), y.split(list(sizes)), strict=True), CE, fisher=fisher)[0]
    for layer, summed in zip(whole, parts, strict=True):
        assert torch.allclose(layer.factors(11)[0], summed.factors(11)[0])
        if fisher != "mc":  # drawn anew for each batch
            assert torch.allclose(layer.factors(11)[1], summed.factors(11)[1])


CONVS = [
    (nn.Conv1d, (4, 6, 3), {"stride": 2, "padding": 1}, (5, 4, 9)),
    (nn.Conv2d, (4, 6, (3, 2)), {"dilation": 2, "padding": "same", "padding_mode": "circular"}, (5, 4, 7, 6)),
    (nn.Conv2d, (4, 6, 3), {"groups": 2, "stride": (2, 1)}, (5, 4, 7, 6)),
    (nn.Conv3d, (2, 3, 2), {"padding": (0, 1, 1), "padding_mode": "reflect"}, (3, 2, 4, 4, 3)),
]


@pytest.mark.parametrize(("kind", "sizes", "options", "shape"), CONVS)
def test_patches_times_the_kernel_are_the_convolution(
    kind: Any, sizes: tuple[Any, ...], options: dict[str, Any], shape: tuple[int, ...]
) -> None:
    module, x = kind(*sizes, bias=False, **options), torch.randn(shape)
    rows, expected = patches(module, x), module(x)
    groups = module.weight.flatten(1).reshape(module.groups, -1, rows.shape[-1])
    output = torch.einsum("ntgd,god->ngot", rows, groups).reshape(expected.shape)
    assert torch.allclose(output, expected)


@pytest.mark.parametrize("conv", ["expand", "reduce", "channels"])
@pytest.mark.parametrize(("kind", "sizes", "options", "shape"), CONVS)
def test_convolutions_in_each_convention(
    conv: str, kind: Any, sizes: tuple[Any, ...], options: dict[str, Any], shape: tuple[int, ...]
) -> None:
    module, x = kind(*sizes, **options), torch.randn(shape)
    net = nn.Sequential(module, nn.Flatten(), nn.LazyLinear(3))
    y = torch.randint(3, (len(x),))
    net(x)
    (layer, _), examples, _ = capture(net, [(x, y)], CE, conv=conv)
    h = module(x).detach().requires_grad_()
    (g,) = torch.autograd.grad(functional.cross_entropy(net[2](h.flatten(1)), y, reduction="sum"), h)
    t = g[0, 0].numel()
    for group in range(module.groups):
        a = patches(module, x)[:, :, group]
        d = g.flatten(2).transpose(1, 2).reshape(len(x), t, module.groups, -1)[:, :, group]
        if conv == "channels":
            plain = (
                x.flatten(2)
                .transpose(1, 2)
                .reshape(len(x), -1, module.groups, x.shape[1] // module.groups)[:, :, group]
            )
            s_x = torch.einsum("nti,ntj->ij", plain, plain) / plain[..., 0].numel()
            s_d = t**2 * torch.einsum("nti,ntj->ij", d, d) / (len(x) * t)
        elif conv == "expand":
            s_x = torch.einsum("nti,ntj->ij", a, a) / (len(x) * t)
            s_d = torch.einsum("nti,ntj->ij", d, d) / len(x)
        else:
            s_x = a.mean(1).T @ a.mean(1) / len(x)
            s_d = d.sum(1).T @ d.sum(1) / len(x)
        inputs, gradients = layer.factors(examples)
        assert torch.allclose(inputs[group], s_x)
        assert torch.allclose(gradients[group], s_d)
    full = torch.autograd.grad(functional.cross_entropy(net(x), y, reduction="sum"), module.weight)[0]
    assert torch.allclose(layer.weight_gradient, full.flatten(1))


def test_sequences_are_positions_and_ignored_tokens_do_not_count() -> None:
    net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    x, y = torch.randn(6, 8, 4), torch.randint(3, (6, 8))
    y[:, 5:] = -100
    entries, examples, _ = capture(net, [(x, y)], CE)
    assert examples == 30
    alone, count, _ = capture(net, [(x[:, :5].reshape(-1, 4), y[:, :5].reshape(-1))], CE)
    assert count == 30
    for layer, alone_layer in zip(entries, alone, strict=True):
        assert torch.allclose(layer.factors(30)[1], alone_layer.factors(30)[1])


def test_a_shared_weight_is_one_layer_with_more_positions() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)
            self.b.weight = self.a.weight

        def forward(self, x: Any) -> Any:
            return self.head(torch.tanh(self.b(torch.tanh(self.a(torch.tanh(self.a(x)))))))

    net, (x, y) = Twice(), data()
    entries, examples, _ = capture(net, [(x, y)], CE)
    assert [layer.name for layer in entries] == ["a.weight", "head.weight"]
    assert (entries[0].calls, entries[0].inputs[0].rows) == (3, 33)
    (gradient,) = torch.autograd.grad(functional.cross_entropy(net(x), y, reduction="sum"), [net.a.weight])
    assert torch.allclose(entries[0].weight_gradient, gradient)
    assert examples == 11


def test_a_bias_appends_a_one() -> None:
    net, (x, y) = mlp(), data()
    plain, with_bias = (capture(net, [(x, y)], CE, bias=bias)[0][0].factors(11)[0][0] for bias in (False, True))
    assert torch.allclose(with_bias[:-1, :-1], plain)
    assert torch.allclose(with_bias[-1], torch.cat([x.mean(0), torch.ones(1)]))


def state_of(net: Any) -> list[Any]:
    tensors = [*net.parameters(), *net.buffers()]
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in net.modules()]
    return [
        [t.detach().clone() for t in tensors],
        [t.grad if t.grad is None else t.grad.clone() for t in tensors],
        [t.requires_grad for t in tensors],
        [m.training for m in net.modules()],
        hooks,
        torch.get_rng_state(),
    ]


def same(a: list[Any], b: list[Any]) -> bool:
    return all(
        len(x) == len(y)
        and all(p is q or (torch.equal(p, q) if hasattr(p, "shape") else p == q) for p, q in zip(x, y, strict=True))
        if isinstance(x, list)
        else torch.equal(x, y)
        for x, y in zip(a, b, strict=True)
    )


@pytest.mark.parametrize("broken", [False, True])
def test_the_model_is_left_as_it_was_found(broken: bool) -> None:
    net = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Linear(8, 3))
    net[0].weight.requires_grad_(False)
    x, y = data()
    functional.cross_entropy(net(x), y).backward()
    before = state_of(net)

    def loader() -> Any:
        yield x, y
        if broken:
            raise OSError("the disk is gone")
        yield x, y

    if broken:
        with pytest.raises(Unreadable, match="the data: OSError: the disk is gone"):
            capture(net, loader(), CE)
    else:
        entries, _, _ = capture(net, loader(), CE)
        assert all(layer.problem == "" for layer in entries)  # frozen weights are measured too
    assert same(before, state_of(net))


def test_what_cannot_be_measured_says_why() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused, self.cut, self.big = (nn.Linear(6, 6) for _ in range(4))
            self.head = nn.Linear(6, 3)

        def forward(self, x: Any) -> Any:
            self.big(x / 0)
            return self.head(self.used(x) + self.cut(x).detach())

    layers = by_name(capture(Odd(), [data()], CE)[0])
    assert layers["used.weight"].problem == ""
    assert layers["unused.weight"].problem == "the module was not called in the forward pass"
    assert layers["cut.weight"].problem.startswith("no gradient of the loss reaches the layer")
    assert layers["big.weight"].problem.startswith("no gradient")


def test_narrow_numbers_are_summed_in_float32() -> None:
    net, (x, y) = mlp().to(torch.bfloat16), data(64)
    entries, examples, _ = capture(net, [(x.to(torch.bfloat16), y)], CE)
    assert all(factor.dtype == torch.float32 for layer in entries for factor in layer.factors(examples))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda net, x, y: capture(net, [], CE), "no batch"),
        (
            lambda net, x, y: capture(net, [(x[:, None], y[:, None])], CE, fisher="exact"),
            "needs a backward pass per token",
        ),
        (
            lambda net, x, y: capture(
                net, [(x[:, None].expand(11, 2, 6), y[:, None].expand(11, 2))], CE, keep_rows=True
            ),
            "not one per token",
        ),
        (
            lambda net, x, y: capture(WIDE, [(x, torch.ones(11, 101))], MSE, fisher="exact"),
            "more than 100",
        ),
        (lambda net, x, y: capture(net, [(x, y + 5)], CE), "labels from"),
        (lambda net, x, y: capture(net, [(x, y[:3])], CE), "outputs have shape"),
        (lambda net, x, y: capture(net, [(x, torch.ones(11, 4))], MSE), "outputs have shape"),
        (lambda net, x, y: capture(net, [(x, y)], Loss.of(lambda o, t: o.sum())), "not one value for each example"),
        (lambda net, x, y: capture(net, [(x, y)], Loss.of(lambda o, t: o.sum(1)), fisher="mc"), "a distribution"),
        (lambda net, x, y: capture(net, [(x, y)], CE, fisher="true"), "no kind of Fisher matrix called 'true'"),
        (lambda net, x, y: Loss.of("crossentropy"), "did you mean 'cross_entropy'"),
        (
            lambda net, x, y: capture(net, [(x, y)], CE, forward=lambda m, b: ({"a": m(b[0]), "b": b[0]}, b[1])),
            "give forward=",
        ),
    ],
)
def test_a_wrong_call_is_one_line(call: Any, message: str) -> None:
    net, (x, y) = mlp(), data()
    before = state_of(net)
    with pytest.raises((UsageError, UnknownName), match=message) as error:
        call(net, x, y)
    assert "\n" not in str(error.value)
    assert same(before, state_of(net))


def test_measuring_a_parametrized_weight_changes_nothing() -> None:
    net = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(6, 5)), nn.ReLU(), nn.Linear(5, 3))
    batch = data()
    before = state_of(net)
    entries, _, _ = capture(net, [batch], CE)
    assert [layer.name for layer in entries] == ["0.weight", "2.weight"]
    assert same(before, state_of(net))


@pytest.mark.parametrize("whole", [False, True])
def test_a_checkpoint_counts_once(whole: bool) -> None:
    from torch.utils.checkpoint import checkpoint

    class Net(nn.Module):
        def __init__(self, checkpointed: bool) -> None:
            super().__init__()
            self.a, self.b, self.head, self.checkpointed = (
                nn.Linear(6, 5),
                nn.Linear(5, 5),
                nn.Linear(5, 3),
                checkpointed,
            )

        def forward(self, x: Any) -> Any:
            inner = lambda h: torch.relu(self.b(torch.relu(self.a(h))))  # noqa: E731
            if not self.checkpointed:
                return self.head(inner(x))
            return self.head(checkpoint(inner, x, use_reentrant=False))

    plain, checkpointed = Net(False), Net(True)
    checkpointed.load_state_dict(plain.state_dict())
    batch = data()
    fisher = "exact" if whole else "empirical"
    expected, actual = (by_name(capture(net, [batch], CE, fisher=fisher)[0]) for net in (plain, checkpointed))
    for name, layer in expected.items():
        assert actual[name].positions == layer.positions
        for a, b in zip(layer.factors(11), actual[name].factors(11), strict=True):
            assert torch.allclose(a, b)


def test_shifts_of_the_norm_behind_a_layer() -> None:
    net = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3))
    with torch.no_grad():
        net[1].bias.copy_(torch.tensor([-1.0, -2.0, -3.0, 4.0]))
        net[1].weight.copy_(torch.tensor([1.0, -2.0, 1.0, 2.0]))
    import layerscope

    report = layerscope.conditioning(net, data())
    first, last = report.layers["0.weight"], report.layers["3.weight"]
    assert first.metrics["beta_negative"] == 0.75
    assert first.metrics["beta_over_gamma"] == pytest.approx((-1 - 1 - 3 + 2) / 4)
    assert "no batch norm with a shift" in last.absent["beta_negative"]
    assert (first.parts["weight"].facts["final"], last.parts["weight"].facts["final"]) == (0.0, 1.0)


def test_large_factors_have_their_largest_eigenvalue_and_trace() -> None:
    import layerscope

    net, batch = mlp(), data()
    whole, some = (layerscope.conditioning(net, batch, max_dim=d).layers["0.weight"] for d in (4096, 5))
    for name in ("lambda_max_x", "lambda_max_d", "lambda_max_fim", "trace_fim", "mean_energy"):
        assert some.metrics[name] == pytest.approx(whole.metrics[name], rel=1e-6), name
    assert "kappa_50_x" not in some.metrics
    assert "larger than max_dim" in some.absent["kappa_50_fim"]
    assert "larger than max_dim" in some.absent["rank_x"]
    assert "kappa_50_d" in some.metrics  # of width 5, which is small enough


WORKER = """
import sys, torch
import torch.distributed as dist
from torch import nn
from layerscope.lenses.learning_statistics.capture import capture
from layerscope.live.losses import Loss
rank, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
torch.set_default_dtype(torch.float64)
torch.manual_seed(0)
net = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
x, y = torch.randn(10, 6), torch.randint(3, (10,))
part = slice(0, 4) if rank == 0 else slice(4, 10)
shards, examples, total = capture(net, [(x[part], y[part])], Loss.of("cross_entropy"), all_reduce=True)
alone, n, value = capture(net, [(x, y)], Loss.of("cross_entropy"))
assert examples == n and abs(total - value) < 1e-12
for a, b in zip(shards, alone):
    for actual, expected in zip(a.factors(n), b.factors(n)):
        assert torch.allclose(actual, expected)
    assert torch.allclose(a.weight_gradient, b.weight_gradient)
    if b.ever_active is not None:
        assert torch.equal(a.ever_active, b.ever_active)
        assert torch.equal(a.always_active, b.always_active)
print("equal")
"""


def test_processes_add_up_their_shards(tmp_path: Any) -> None:
    import subprocess
    import sys

    words = [sys.executable, "-W", "ignore", "-c", WORKER]
    runs = [
        subprocess.Popen([*words, str(rank), str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for rank in (0, 1)
    ]
    for run in runs:
        out, errors = run.communicate(timeout=120)
        assert out.strip() == "equal", errors
    with pytest.raises(UsageError, match="not initialized"):
        capture(mlp(), [data()], CE, all_reduce=True)
