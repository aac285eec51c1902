"""Cases that hooks get wrong easily: layers called twice, weights used elsewhere, narrow arithmetic, missing labels."""

from __future__ import annotations

from typing import Any

import pytest

import layerscope
from tests.requirements import require

torch: Any = require("torch")
from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def per_example(net: Any, x: Any, y: Any, weight: Any) -> Any:
    """(N, entries): the gradient of each example alone."""
    rows = []
    for i in range(len(x)):
        loss = functional.cross_entropy(net(x[i : i + 1]), y[i : i + 1])
        rows.append(torch.autograd.grad(loss, weight)[0].flatten())
    return torch.stack(rows)


def top(rows: Any) -> float:
    return float(torch.linalg.matrix_norm(rows, 2)) ** 2 / len(rows)


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.head = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Any) -> Any:
        return self.head(self.a(torch.tanh(self.a(x))))


def test_a_layer_called_twice_has_no_exact_block_and_the_others_have() -> None:
    net, x, y = Twice().double(), torch.randn(20, 6).double(), torch.randint(3, (20,))
    layers = layerscope.conditioning(net, (x, y), exact=True).layers
    assert "lambda_max_exact" not in layers["a.weight"].metrics
    assert layers["head.weight"].metrics["lambda_max_exact"] == pytest.approx(
        top(per_example(net, x, y, net.head.weight))
    )
    assert layers["a.weight"].metrics["grad_sigma_max"] == pytest.approx(
        float(torch.linalg.matrix_norm(per_example(net, x, y, net.a.weight).mean(0).reshape(6, 6), 2))
    )


def test_exact_blocks_do_not_depend_on_how_positions_are_reduced() -> None:
    net = nn.Sequential(nn.Conv1d(2, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(12, 3)).double()
    x, y = torch.randn(20, 2, 6).double(), torch.randint(3, (20,))
    for conv in ("expand", "reduce"):
        m = layerscope.conditioning(net, (x, y), exact=True, conv=conv).layers["0.weight"].metrics
        assert m["lambda_max_exact"] == pytest.approx(top(per_example(net, x, y, net[0].weight)), rel=1e-9)


def test_rows_that_are_no_examples_have_no_exact_block() -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, x: Any) -> Any:
            h = self.a(x.reshape(-1, 4)).reshape(x.shape)
            return self.head(torch.tanh(h).mean(1))

    net, x, y = Flat().double(), torch.randn(10, 5, 4).double(), torch.randint(3, (10,))
    layers = layerscope.conditioning(net, (x, y), exact=True).layers
    assert "lambda_max_exact" not in layers["a.weight"].metrics
    assert layers["head.weight"].metrics["lambda_max_exact"] == pytest.approx(
        top(per_example(net, x, y, net.head.weight))
    )


def test_autocast_in_the_model_is_no_obstacle() -> None:
    class Cast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.head = nn.Linear(16, 16), nn.Linear(16, 3)

        def forward(self, x: Any) -> Any:
            with torch.autocast("cpu", torch.bfloat16):
                h = torch.relu(self.a(x))
            return self.head(h.float())

    net, x, y = Cast(), torch.randn(200, 16), torch.randint(3, (200,))
    cast = layerscope.conditioning(net, (x, y)).layers["a.weight"].metrics
    with torch.autocast("cpu", torch.bfloat16, enabled=False):
        s_x = x.T @ x / 200
    assert cast["lambda_max_x"] == pytest.approx(float(torch.linalg.eigvalsh(s_x)[-1]), rel=1e-2)
    assert 0 < cast["coherence"] <= 1


def test_equal_tokens_are_fully_coherent() -> None:
    net = nn.Linear(4, 3).double()
    x = torch.randn(4).double().expand(2, 5, 4)
    y = torch.ones(2, 5, dtype=torch.long)
    for batch in ((x, y), (x.reshape(10, 4), y.reshape(10))):
        m = layerscope.conditioning(net, batch).layers["weight"].metrics
        assert m["coherence"] == pytest.approx(1.0)


@pytest.mark.parametrize("use", ["embedding", "transposed", "twice", "second head"])
@pytest.mark.parametrize("fisher", ["empirical", "mc"])
def test_a_weight_that_is_used_elsewhere_has_its_whole_gradient(use: str, fisher: str) -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.emb, self.head = nn.Embedding(9, 6), nn.Linear(6, 9, bias=False)
            self.square = nn.Linear(6, 6, bias=False)
            if use == "embedding":
                self.head.weight = self.emb.weight
            self.other = nn.Linear(6, 9, bias=False)
            if use == "second head":
                self.other.weight = self.head.weight

        def forward(self, x: Any) -> Any:
            hidden = torch.tanh(self.emb(x))
            if use == "transposed":
                hidden = torch.tanh(nn.functional.linear(self.head(hidden), self.head.weight.T))
            if use == "twice":
                hidden = torch.tanh(self.square(torch.tanh(self.square(hidden))))
            return self.head(hidden) + (self.other(hidden.sin()) if use == "second head" else 0)

    torch.manual_seed(5)
    net = Shared().double()
    batches = [(torch.randint(9, (40,)), torch.randint(9, (40,))) for _ in range(2)]
    report = layerscope.conditioning(net, batches, fisher=fisher)
    loss = sum(nn.functional.cross_entropy(net(x), y, reduction="sum") for x, y in batches) / 80
    loss.backward()
    name = "square.weight" if use == "twice" else "head.weight"
    weight, metrics = net.get_parameter(name), report.layers[name].metrics
    sigma = float(torch.linalg.matrix_norm(weight.grad, 2))
    assert metrics["grad_sigma_max"] == pytest.approx(sigma, rel=1e-9)
    assert metrics["domination"] == pytest.approx(sigma / float(torch.linalg.matrix_norm(weight.detach(), 2)), rel=1e-9)
    assert ("coherence" in metrics) == (use in ("twice", "second head"))


def test_a_layer_without_a_bias_gets_none() -> None:
    net, x, y = nn.Linear(5, 3, bias=False).double(), 1e-3 * torch.randn(40, 5).double(), torch.randint(3, (40,))
    with_bias, without = (layerscope.conditioning(net, (x, y), bias=b).layers["weight"].metrics for b in (True, False))
    assert with_bias["lambda_max_x"] == without["lambda_max_x"]


@pytest.mark.parametrize("conv", ["expand", "reduce"])
def test_examples_without_a_label_do_not_count(conv: str) -> None:
    net = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3)).double()
    x, y = torch.randn(32, 5).double(), torch.randint(3, (32,))
    y[16:] = -100
    some, whole = (layerscope.conditioning(net, b, conv=conv) for b in ((x[:16], y[:16]), (x, y)))
    for a, b in zip(some.rows, whole.rows, strict=True):
        for name in ("lambda_max_x", "lambda_max_d", "domination", "mean_energy", "coherence"):
            if name in a.metrics:
                assert b.metrics[name] == pytest.approx(a.metrics[name], rel=1e-9), name


def test_padding_tokens_do_not_count() -> None:
    net = nn.Linear(5, 3).double()
    x, y = torch.randn(6, 4, 5).double(), torch.randint(3, (6, 4))
    x[:, 2:], y[:, 2:] = 0, -100
    whole = layerscope.conditioning(net, (x, y)).layers["weight"].metrics
    alone = layerscope.conditioning(net, (x[:, :2].reshape(12, 5), y[:, :2].reshape(12))).layers["weight"].metrics
    for name in ("lambda_max_x", "lambda_max_d", "lambda_max_fim", "coherence"):
        assert whole[name] == pytest.approx(alone[name], rel=1e-9), name


def test_units_belong_to_the_layer_that_made_them() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate, self.up, self.na, self.nb, self.head = (
                nn.Linear(5, 8), nn.Linear(5, 8), nn.BatchNorm1d(8), nn.BatchNorm1d(8), nn.Linear(8, 3),
            )  # fmt: skip

        def forward(self, x: Any) -> Any:
            g, u = self.gate(x), self.up(x)
            return self.head(torch.relu(self.na(g)) * torch.relu(self.nb(u)))

    net = Gated()
    with torch.no_grad():
        net.na.bias.fill_(-100.0)
        net.nb.bias.fill_(100.0)
    layers = layerscope.conditioning(net, (torch.randn(30, 5), torch.randint(3, (30,)))).layers
    gate, up = layers["gate.weight"].metrics, layers["up.weight"].metrics
    assert (gate["dying"], gate["full"], gate["beta_negative"]) == (8, 0, 1.0)
    assert (up["dying"], up["full"], up["beta_negative"]) == (0, 8, 0.0)


def test_an_input_that_is_overwritten_is_reported() -> None:
    class Over(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, x: Any) -> Any:
            h = x * 1.0
            out = self.a(h)
            h.add_(1.0)
            return self.head(out + h)

    report = layerscope.conditioning(Over(), (torch.randn(9, 4), torch.randint(3, (9,))))
    assert "overwritten in place" in report.layers["a.weight"].skipped
    assert "lambda_max_x" in report.layers["head.weight"].metrics


def test_buffers_that_forward_puts_elsewhere_are_back() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 3)
            self.register_buffer("n", torch.zeros(()))

        def forward(self, x: Any) -> Any:
            self.n = self.n + 1
            return self.fc(x)

    net, data = Counting(), (torch.randn(9, 4), torch.randint(3, (9,)))
    buffer = net.n
    layerscope.conditioning(net, data)
    layerscope.curvature(net, data)
    assert net.n is buffer
    assert float(net.n) == 0


def test_a_shuffling_loader_leaves_the_generator() -> None:
    data = torch.utils.data.TensorDataset(torch.randn(20, 4), torch.randint(3, (20,)))
    loader = torch.utils.data.DataLoader(data, batch_size=5, shuffle=True)
    before = torch.get_rng_state()
    net = nn.Linear(4, 3)
    before = torch.get_rng_state()
    layerscope.curvature(net, loader)
    layerscope.conditioning(net, loader, curvature_of="ggn")
    assert torch.equal(before, torch.get_rng_state())


def test_a_diverged_run_is_kept(tmp_path: Any) -> None:
    net, x, y = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)), torch.randn(30, 4), torch.randint(3, (30,))
    optimizer = torch.optim.SGD(net.parameters(), 1e30)
    with layerscope.ConditioningMonitor(net, (x, y), every=1, path=tmp_path / "run.layerscope") as monitor:
        for _ in range(4):
            monitor.step(loss=float("nan"))
            optimizer.zero_grad()
            functional.cross_entropy(net(x), y).backward()
            optimizer.step()
    assert layerscope.History.load(tmp_path / "run.layerscope").steps == (0, 1, 2, 3)


def test_regression_with_one_output_and_keyword_inputs() -> None:
    class One(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 1)

        def forward(self, x: Any) -> Any:
            return self.fc(input=x).squeeze(-1)

    x, y = torch.randn(30, 4), torch.randn(30)
    m = layerscope.conditioning(One(), (x, y), "mse", fisher="exact").layers["fc.weight"].metrics
    assert m["lambda_max_d"] == pytest.approx(1.0)
    assert layerscope.curvature(One(), (x, y), "mse").values[0] > 0


def test_a_loader_that_runs_the_model_adds_nothing_to_the_statistics() -> None:
    torch.manual_seed(0)
    net, (x, y) = (
        nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)),
        (torch.randn(40, 8), torch.randint(3, (40,))),
    )
    batches = [(x[:20], y[:20]), (x[20:], y[20:])]

    def running_loader() -> Any:
        for batch in batches:
            with torch.no_grad():
                net(100 * torch.randn(20, 8))
            yield batch

    plain, ran = (layerscope.conditioning(net, data, fits=()) for data in (batches, running_loader()))
    for layer in ("0.weight", "2.weight"):
        for name in ("lambda_max_x", "lambda_max_d"):
            assert ran.layers[layer].metrics[name] == plain.layers[layer].metrics[name]


def test_gradients_that_the_model_takes_in_its_forward_are_not_those_of_the_loss() -> None:
    class Differentiating(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.first, self.last, self.differentiates = nn.Linear(8, 6), nn.Linear(6, 3), True

        def forward(self, x: Any) -> Any:
            hidden = torch.tanh(self.first(x))
            out = self.last(hidden)
            if self.differentiates:
                torch.autograd.grad(10 * out.sum(), hidden, retain_graph=True)
            return out

    net = Differentiating()
    x, y = torch.randn(40, 8), torch.randint(3, (40,))
    batches = [(x[:20], y[:20]), (x[20:], y[20:])]
    differentiating = layerscope.conditioning(net, batches, fits=())
    net.differentiates = False
    plain = layerscope.conditioning(net, batches, fits=())
    for layer in ("first.weight", "last.weight"):
        assert differentiating.layers[layer].metrics["lambda_max_d"] == plain.layers[layer].metrics["lambda_max_d"]
