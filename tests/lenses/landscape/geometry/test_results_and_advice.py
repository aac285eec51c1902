"""What users met: fused weights in files, advice that must be true, holes that stay holes, words at the wrong time."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import layerscope
from layerscope.errors import UnknownName, Unreadable, UsageError
from layerscope.rules.judging import judge_landscape
from layerscope.rules.landscape_facts import Pair, Pairs
from layerscope.sources.model_weights import weights_of
from layerscope.views.page import writing
from layerscope.views.plots import drawing, landscape_pictures
from tests.command_line import cli
from tests.requirements import require

torch: Any = require("torch")
from torch import nn  # noqa: E402


def mlp(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))


def encoder(seed: int = 0) -> Any:
    class Net(nn.Module):
        """Attention whose query, key and value are one tensor."""

        def __init__(self) -> None:
            super().__init__()
            self.block, self.head = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), nn.Linear(8, 4)

        def forward(self, x: Any) -> Any:
            return self.head(self.block(x).mean(1))

    torch.manual_seed(seed)
    return Net().eval()


@pytest.fixture
def data() -> Any:
    torch.manual_seed(9)
    return torch.randn(50, 6), torch.randint(4, (50,))


@pytest.mark.parametrize("kind", ["pt", "safetensors", "npz"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_weights_of_a_file_have_the_shapes_of_the_model(tmp_path: Path, kind: str) -> None:
    from safetensors.torch import save_file

    a, b = encoder(0), encoder(1)
    files = [tmp_path / f"{name}.{kind}" for name in "ab"]
    for net, path in zip((a, b), files, strict=True):
        state = net.state_dict()
        if kind == "pt":
            torch.save(state, path)
        elif kind == "npz":
            np.savez(path, **{name: value.numpy() for name, value in state.items()})
        else:
            save_file(state, path)
    live, read = weights_of(a), weights_of(files[0])
    assert {name: value.shape for name, value in live.items()} == {name: value.shape for name, value in read.items()}
    assert all(np.array_equal(live[name], read[name]) for name in live)
    torch.manual_seed(3)
    evaluate = layerscope.TorchEvaluator(a, (torch.randn(30, 5, 8), torch.randint(4, (30,))))
    lines = [layerscope.line(*ends, evaluate, points=3) for ends in ((a, b), files)]
    assert np.array_equal(lines[0].metrics["loss"], lines[1].metrics["loss"])
    assert layerscope.align(a, *files, torch.randn(8, 5, 8)).output_change < 1e-6


def test_stacked_experts_of_a_file_too(tmp_path: Path) -> None:
    transformers: Any = require("transformers")
    config = transformers.MixtralConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2,
        vocab_size=30, num_local_experts=3,
    )  # fmt: skip
    net = transformers.MixtralForCausalLM(config)
    torch.save(net.state_dict(), tmp_path / "m.pt")
    live, read = weights_of(net), weights_of(tmp_path / "m.pt")
    assert all(np.array_equal(live[name], read[name]) for name in live)


def test_a_barrier_lies_between_the_ends(data: Any) -> None:
    a, b = mlp(0), mlp(1)
    evaluate = layerscope.TorchEvaluator(a, data)
    with pytest.raises(UsageError, match="points must be 3 or more"):
        layerscope.basins([a, b], evaluate, points=2)
    line = layerscope.line(a, b, evaluate, points=2)
    assert math.isnan(line.barrier().value)
    assert "loss barrier not measured" in repr(line)


def bowl(weights: Any) -> dict[str, float]:
    return {"loss": float(np.square(weights["w"]).sum()), "accuracy": 0.5}


def test_a_hole_has_no_metric_at_all() -> None:
    def holed(weights: Any) -> dict[str, float]:
        found = bowl(weights)
        return found if weights["w"][0] < 0.7 or weights["w"][0] == 1 else {"loss": math.nan, "accuracy": 0.1}

    a, b = {"w": np.zeros(2)}, {"w": np.ones(2)}
    line = layerscope.line(a, b, holed, points=9)
    assert np.isnan(line.metrics["accuracy"]).sum() == sum(line.holes.values()) == 1 + 1
    assert "loss barrier at least" in repr(line)
    found = layerscope.basins({"a": a, "b": b}, holed, points=9)
    assert [finding.code for finding in found.findings] == ["LS305"]


def test_advice_says_by_how_much_the_loss_rises() -> None:
    names = {"a": {"w": np.array([1.0, 0.0])}, "b": {"w": np.array([0.0, 1.0])}}
    found = layerscope.basins(names, bowl, points=5)
    (advice,) = found.advice()
    assert advice.startswith(f"a and b can be averaged: no loss barrier exceeds {found.tolerance:.3g};")
    assert found.means["a", "b"]["loss"] == 0.5
    assert "the average has loss 0.5, the best single model 1." in advice


@pytest.mark.parametrize(
    ("barriers", "wanted"),
    [
        (
            {"aligned": 0.05},
            "removes most of the loss barrier in 1 of 1 pairs with a barrier; at most 0.05 is left (tolerance: 0.1)",
        ),
        ({"aligned": 1.5, "repaired": 0.05}, "Alignment and REPAIR together remove most of it in 1 of 1 pairs"),
        ({"aligned": 2.0, "repaired": 0.05}, ""),  # the order did nothing
    ],
)
def test_what_takes_a_barrier_away_is_named(barriers: dict[str, float], wanted: str) -> None:
    pairs = Pairs((Pair(("a", "b"), {"straight": 2.0, **barriers}),), "straight", 0.1, 9.0, 1.0)
    told = [finding.message for finding in judge_landscape(pairs=pairs) if finding.code == "LS303"]
    assert bool(told) == bool(wanted)
    assert not wanted or wanted in told[0]


def test_advice_to_repair_where_order_alone_does_not_do(data: Any) -> None:
    a, b = mlp(0), mlp(1)
    found = layerscope.basins({"a": a, "b": b}, layerscope.TorchEvaluator(a, data), points=5, tolerance=10.0)
    joined = {
        "clusters": (("a",), ("b",)), "aligned": (("a", "b"),), "tolerance": 0.1,
        "barriers": {"straight": found.barriers["straight"], "aligned": np.full((2, 2), 0.3)},
    }  # fmt: skip
    for name, value in joined.items():
        object.__setattr__(found, name, value)
    assert found.advice()[0].startswith("Align a and b and apply REPAIR before averaging:")


def test_the_page_has_the_distances_of_its_rows() -> None:
    found = layerscope.distances({"a": {"w": np.array([[3.0, 4.0]])}, "b": {"w": np.array([[0.0, 1.0]])}})
    assert found.matrix("relative")[0, 1] == pytest.approx(math.sqrt(18) / 5)
    assert f"{math.sqrt(18) / 5:.4g}" in writing.render_page(found)
    assert f"{math.sqrt(18):.4g}" in writing.render_page(found)
    assert "Open a row to see the loss along the line" not in writing.render_page(found)
    assert found.to_dict()["from_origin"] == {}


def test_the_model_whose_weights_are_not_finite_is_named(data: Any) -> None:
    a, b, c = mlp(0), mlp(1), mlp(2)
    b[2].weight.data[0, 0] = math.nan
    evaluate = layerscope.TorchEvaluator(a, data)
    line = layerscope.line(a, b, evaluate, points=3, names=("one", "two"))
    assert line.holes == {"not finite (because of 2.weight of two)": 2}
    plane = layerscope.plane(a, b, c, evaluate, u=(0, 1, 2), v=(0, 1, 2), names=("one", "two", "three"))
    assert plane.holes == {"not finite (because of 2.weight of two)": 2}


def test_colours_of_a_loss_that_soars_are_those_of_logarithms(tmp_path: Path) -> None:
    def steep(weights: Any) -> dict[str, float]:
        return {"loss": 0.01 + float(np.square(weights["w"]).sum()), "accuracy": 0.01 + 0.1 * float(weights["w"][0])}

    points = [{"w": np.array(at)} for at in ([0.0, 0.0], [3.0, 0.0], [0.0, 3.0])]
    plane = layerscope.plane(*points, steep, u=(0, 1, 7), v=(0, 1, 7))
    for draw in (landscape_pictures.plane_picture, landscape_pictures.surface_picture):
        assert [draw(plane, metric).marks[0].log for metric in ("loss", "accuracy")] == [True, False]
    figure = plane.plot("loss")
    (beside,) = figure.axes[0].child_axes
    assert beside.get_yscale() == "log"
    assert "0.1" in [text.get_text() for text in beside.get_yticklabels()]
    drawing.save_figure(figure, tmp_path / "p.png")
    drawing.save_figure(plane.plot("loss", surface=True), tmp_path / "s.svg")


def test_outputs_that_are_not_finite_are_not_compared(data: Any) -> None:
    a, b = mlp(0), mlp(1)
    b[2].bias.data[0] = math.nan
    with pytest.raises(UsageError, match="not finite"):
        layerscope.function_distance(a, b, layerscope.TorchEvaluator(a, data))
    with pytest.raises(UsageError, match="second: its own loss is not finite"):
        layerscope.basins({"first": a, "second": b}, layerscope.TorchEvaluator(a, data))


def test_inputs_of_numpy_take_the_type_of_the_parameters(data: Any) -> None:
    x, y = data[0].numpy().astype(np.float64), data[1].numpy()
    found, wanted = (layerscope.TorchEvaluator(mlp(), each)(mlp()) for each in ((x, y), data))
    assert found.metrics == wanted.metrics


def test_the_json_of_a_line_has_its_errors(data: Any) -> None:
    line = layerscope.line(mlp(0), mlp(1), layerscope.TorchEvaluator(mlp(), data), points=5)
    plain, top = line.to_dict(), line.barrier()
    assert plain["top"] == {"t": top.at, "value": top.value, "error": top.error}
    assert plain["errors"]["loss"] == list(line.errors("loss"))


def test_curves_say_what_is_wrong(data: Any) -> None:
    a, b = mlp(0), mlp(1)
    evaluate = layerscope.TorchEvaluator(a, data)
    for how, wanted in (({"lr": -1}, "lr=-1: "), ({"batch": 0}, "batch must"), ({"points": 2}, "points must")):
        with pytest.raises(UsageError, match=wanted):
            layerscope.connect(a, b, evaluate, data, **how)
    with pytest.raises(UsageError, match="TorchEvaluator"):
        layerscope.connect(a, b, bowl, data)
    with pytest.raises(Unreadable, match="the model on the training data"):
        layerscope.connect(a, b, evaluate, (torch.randn(20, 5), torch.zeros(20).long()))
    found = layerscope.connect(a, b, evaluate, data, steps=2, points=5, names=("one", "two"))
    figure = found.straight.plot(found.curved)
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["one → two", "one → two, bezier"]
    with pytest.raises(UnknownName, match="sideways"):
        layerscope.basins([a, b], evaluate, points=3).plot("sideways")


def test_a_metric_that_is_not_measured_is_said_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "drawn_nets.py").write_text(
        "import torch\nfrom torch import nn\n"
        "def build():\n    return nn.Linear(6, 4)\n"
        "def data():\n    return torch.ones(9, 6), torch.zeros(9).long()\n"
    )
    torch.save(nn.Linear(6, 4).state_dict(), tmp_path / "a.pt")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    models = ["drawn_nets:build", str(tmp_path / "a.pt"), "--data", "drawn_nets:data"]
    told = cli("landscape", "plane", *models, "--metric", "foo", "-q")
    assert told.returncode == 2
    assert "'foo'" in told.stderr
    assert "accuracy" in told.stderr
    assert told.stdout == ""
