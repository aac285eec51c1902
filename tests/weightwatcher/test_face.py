"""The face's own promises: ids, names, columns, filters, what is refused, what is changed in place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import layerscope.weightwatcher as ww
from layerscope.errors import LayerscopeError, UnknownName, UsageError
from tests.oracles.test_weightwatcher import SMALL_BRANCH, cases
from tests.requirements import require

torch = require("torch")
nn = torch.nn
BASE = ["layer_id", "name", "D", "M", "N", "Q", "alpha", "alpha_weighted", "entropy", "has_esd", "lambda_max",
        "layer_type", "log_alpha_norm", "log_norm", "log_spectral_norm", "longname", "matrix_rank", "norm", "num_evals",
        "num_pl_spikes", "rank_loss", "rf", "sigma", "spectral_norm", "stable_rank", "status", "sv_max", "sv_min",
        "warning", "weak_rank_loss", "xmax", "xmin"]  # fmt: skip
MP = {"W_scale", "bulk_max", "bulk_min", "mp_softrank", "num_spikes", "sigma_mp"}
RANDOM = {"max_rand_eval", "rand_distance", "ww_softrank", "ww_maxdist", "rand_W_scale", "rand_bulk_max",
          "rand_bulk_min",
          "rand_mp_softrank", "rand_num_spikes", "num_traps", "rand_sigma_mp"}  # fmt: skip
ERG = {"detX_num", "num_ERG_spikes", "ERG_gap", "detX_val", "detX_val_unrescaled"}


class Net(nn.Module):  # type: ignore[misc,name-defined]
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 20, 3)
        self.emb = nn.Embedding(300, 40)
        self.identity = nn.Identity()
        self.block = nn.Sequential(nn.Linear(120, 64), nn.ReLU(), nn.Linear(64, 30))
        self.ln = nn.LayerNorm(30, elementwise_affine=False)
        self.tiny = nn.Linear(4, 2)


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    model = Net()
    for parameter in model.parameters():
        if parameter.ndim == 2:
            parameter.data += 0.3 * torch.randn(parameter.shape[0], 1) @ torch.randn(1, parameter.shape[1])
    return model


@pytest.mark.parametrize("model", cases())
def test_the_values_of_every_shared_model(shared: Path, model: str) -> None:
    """The recorded table of 0.7.7, matrix by matrix, through the face's own columns."""
    path = shared / model
    if path.suffix == ".bin":
        pytest.skip("a llama2.c file is no checkpoint that either tool opens")
    known = json.loads((shared / "weightwatcher_0.7.7.json").read_text())["models"][model]["layers"]
    details = ww.WeightWatcher(model=path).analyze()

    def plain(name: str) -> str:
        flat = name.removeprefix("module.").replace(".", "_").removesuffix("_weight")
        return flat.replace("_1_pointwise_kernel", "_pointwise").removesuffix("_kernel").removesuffix("_1")

    rows = {plain(row["longname"]): row for row in details.to_dict("records")}
    compared = 0
    for theirs in known:
        ours = rows.get(plain(theirs["longname"]))
        if ours is None or ours["num_evals"] != theirs["num_evals"]:
            continue  # stored under a name that does not end in .weight
        compared += 1
        for key in ("N", "M", "rf"):
            assert ours[key] == theirs[key]
        for key in ("lambda_max", "log_norm", "stable_rank", "sv_max"):
            assert ours[key] == pytest.approx(theirs[key], rel=1e-5, abs=2e-6)
        if theirs["num_evals"] >= SMALL_BRANCH and theirs["alpha"] != -1:
            for key in ("alpha", "xmin", "D", "sigma", "num_pl_spikes", "alpha_weighted", "log_alpha_norm"):
                assert ours[key] == pytest.approx(theirs[key], rel=1e-4, abs=2e-6), (theirs["longname"], key)
            assert (ours["status"], ours["warning"]) == (theirs["status"], theirs["warning"])
    assert compared or not len(details)


def test_ids_names_and_columns(net: Net) -> None:
    watcher = ww.WeightWatcher(model=net)
    details = watcher.analyze()
    assert list(details.columns) == BASE
    assert list(details.layer_id) == [1, 2, 5, 7]
    assert list(details.name) == ["conv", "emb", "0", "2"]
    assert list(details.longname) == ["conv", "emb", "block.0", "block.2"]
    assert list(details.layer_type) == ["conv2d", "embedding", "dense", "dense"]
    assert watcher.get_details() is details
    described = watcher.describe()
    assert list(described.columns) == ["layer_id", "name", "M", "N", "Q", "layer_type", "longname", "num_evals", "rf"]
    assert (described[["layer_id", "num_evals"]] == details[["layer_id", "num_evals"]]).all().all()
    assert ww.WeightWatcher(model=net.state_dict()).describe().layer_id.tolist() == [1, 2, 3, 4]
    assert watcher.describe(start_ids=10).layer_id.tolist() == [11, 12, 15, 17]


def test_columns_that_are_asked_for(net: Net) -> None:
    watcher = ww.WeightWatcher(model=net)
    assert set(watcher.analyze(mp_fit=True)) - set(BASE) == MP
    assert set(watcher.analyze(randomize=True)) - set(BASE) == RANDOM
    assert set(watcher.analyze(detX=True)) - set(BASE) == set(watcher.analyze(ERG=True)) - set(BASE) == ERG
    assert len(set(watcher.analyze(vectors=True)) - set(BASE)) == 12
    assert set(watcher.analyze(fix_fingers="clip_xmax")) - set(BASE) == {"num_fingers", "raw_alpha"}
    for fit in ("TPL", "E_TPL"):
        frame = watcher.analyze(fit=fit)
        assert set(frame) - set(BASE) == {"Lambda"}
        assert frame.alpha.notna().all()
        assert frame.sigma.isna().all()
    slices = watcher.analyze(pool=False)
    assert set(slices) - set(BASE) == {"slice_id"}
    assert (slices.longname == "conv").sum() == 9
    assert slices[slices.longname == "conv"].slice_id.tolist() == list(range(9))
    assert (watcher.analyze(ww2x=True).longname == slices.longname).all()


def test_convolutions_carry_the_historical_factor(net: Net) -> None:
    watcher = ww.WeightWatcher(model=net)
    kernel = net.conv.weight.detach().numpy().astype(np.float64)
    top = max(np.linalg.norm(kernel[:, :, i, j], 2) ** 2 for i in range(3) for j in range(3))
    assert watcher.analyze(layers=[1]).lambda_max[0] == pytest.approx(top / 2)
    assert watcher.analyze(layers=[1], conv2d_norm=False).lambda_max[0] == pytest.approx(top)
    assert watcher.analyze(layers=[1], pool=False).lambda_max.max() == pytest.approx(top * 9 / 2)
    esd = watcher.get_ESD(layer=1)
    assert esd[-1] == pytest.approx(top / 2)
    assert len(esd) == 72
    assert watcher.get_ESD(layer="conv", random=True).sum() == pytest.approx(esd.sum(), rel=1e-5)
    assert [w.shape for w in watcher.get_Weights(layer="conv")] == [(20, 8)] * 9
    assert watcher.get_framework_layer(layer="block.0") is net.block[0]


@pytest.mark.parametrize(
    ("layers", "ids"),
    [([1], [1]), (5, [5]), ([-1, -7], [2, 5]), ("dense", [5, 7]), (["dense", "conv2d"], [1, 5, 7]), (["emb"], [2]),
     (["-emb"], [1, 5, 7]), (["block.0"], [5]), ([np.int64(2)], [2])],
)  # fmt: skip
def test_filters(net: Net, layers: Any, ids: list[int]) -> None:
    assert ww.WeightWatcher(model=net).describe(layers=layers).layer_id.tolist() == ids


@pytest.mark.parametrize("layers", [[1, -2], ["emb", "-conv"], [99], ["nothing"], [None], [1.5]])
def test_filters_that_mean_nothing_are_refused(net: Net, layers: Any) -> None:
    with pytest.raises(UsageError):
        ww.WeightWatcher(model=net).describe(layers=layers)


@pytest.mark.parametrize(
    "options",
    [{"glorot_fix": True}, {"conv2d_fft": True}, {"fft": True}, {"deltas": True},
     {"channels": "first"}, {"min_size": 3}, {"max_size": 3}, {"fit": "LN"}, {"svd_method": "truncated"},
     {"pl_package": "other"}, {"xmax": "force"}, {"xmax": True}, {"intra": True}, {"stacked": True, "peft": True},
     {"stacked": True, "pool": False}, {"fix_fingers": "x"}, {"peft": True}, {"peft": "only"}, {"max_evals": 3},
     {"inverse": True, "randomize": True}, {"xmin_max": 3.0}],
)  # fmt: skip
def test_what_is_not_supported_raises_and_says_so(net: Net, options: Any) -> None:
    with pytest.raises(LayerscopeError) as caught:
        ww.WeightWatcher(model=net).analyze(**options)
    assert str(next(iter(options))).split("_")[0] in str(caught.value) or "choose one of" in str(caught.value)


def test_bad_models_get_one_line(tmp_path: Path) -> None:
    for model in (None, 3, tmp_path / "nowhere", {"a.weight": "text"}):
        with pytest.raises(LayerscopeError):
            ww.WeightWatcher(model=model).analyze()
    with pytest.raises(UsageError, match="framework"):
        ww.WeightWatcher(model=nn.Linear(3, 3), framework="keras")
    assert len(ww.WeightWatcher(model=nn.Linear(3, 3)).analyze()) == 0
    with pytest.raises(TypeError):
        ww.WeightWatcher(model=nn.Linear(3, 3)).analyze(nothing=True)  # type: ignore[call-arg]


def test_summary_leaves_out_embeddings_and_failed_fits(net: Net) -> None:
    watcher = ww.WeightWatcher(model=net)
    net.block[2].weight.data = torch.eye(30, 64)
    details = watcher.analyze(mp_fit=True)
    failed = details[details.longname == "block.2"].iloc[0]
    assert failed.status == "failed"
    assert failed.warning == ""
    assert np.isnan(failed.alpha)
    summary = watcher.get_summary()
    assert list(summary) == ["log_norm", "alpha", "alpha_weighted", "log_alpha_norm", "log_spectral_norm",
                             "stable_rank", "mp_softrank"]  # fmt: skip
    assert summary["alpha"] == pytest.approx(details[details.longname.isin(["conv", "block.0"])].alpha.mean())
    assert watcher.get_summary(details.iloc[:1]) == pytest.approx(details.iloc[0][list(summary)].to_dict())


def test_distances_by_name(net: Net) -> None:
    torch.manual_seed(5)
    other = Net()
    watcher = ww.WeightWatcher()
    mean, bias, frame = watcher.distances(net, other)
    row, one, two = frame.loc[5], net.block[0].requires_grad_(False), other.block[0].requires_grad_(False)
    assert row.delta_W == pytest.approx(float((one.weight - two.weight).norm()), rel=1e-6)
    assert row.delta_b == pytest.approx(float((one.bias - two.bias).norm()), rel=1e-6)
    assert mean == pytest.approx(frame.delta_W.mean())
    assert bias == pytest.approx(frame.delta_b.mean())
    _, _, slices = watcher.distances(net, other, method="euclidean")
    a, b = (m.conv.weight.detach() for m in (net, other))
    assert slices.loc[1].delta_W == pytest.approx(float((a - b).flatten(2).norm(dim=(0, 1)).mean()), rel=1e-6)
    _, _, same = watcher.distances(net, net, method="cka")
    assert same.delta_W.tolist() == pytest.approx([1.0] * len(same))
    shuffled = dict(reversed(other.state_dict().items()))
    assert watcher.distances(net.state_dict(), shuffled)[0] == pytest.approx(mean)
    with pytest.raises(UnknownName):
        watcher.distances(net, other, method="l1")
    with pytest.raises(UsageError, match="no layer with the same name"):
        watcher.distances(net, nn.Sequential(nn.Linear(3, 4)))


def test_a_base_model_is_subtracted_by_name(net: Net) -> None:
    base = {name: tensor + 0.1 for name, tensor in reversed(net.state_dict().items())}
    del base["emb.weight"]
    details = ww.WeightWatcher(model=net.state_dict(), base_model=base).analyze(min_evals=2)
    assert "emb" not in details.longname.tolist()
    row = details[details.longname == "block.0"].iloc[0]
    assert row.norm == pytest.approx(0.01 * 120 * 64, rel=1e-4)
    again = ww.WeightWatcher(model=net.state_dict()).analyze(base_model=base, min_evals=2)
    pd.testing.assert_frame_equal(details, again)


class Adapted(nn.Module):  # type: ignore[misc,name-defined]
    """As PEFT wraps a linear layer."""

    def __init__(self, rank: int = 4) -> None:
        super().__init__()
        self.base_layer = nn.Linear(80, 60, bias=False)
        self.lora_A = nn.ModuleDict({"default": nn.Linear(80, rank, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(rank, 60, bias=False)})
        self.scaling = {"default": 2.0}


def test_adapters_of_a_live_model_with_their_scale() -> None:
    torch.manual_seed(0)
    model = nn.ModuleDict({"q": Adapted()})
    a, b = (getattr(model["q"], f"lora_{x}")["default"].weight.detach().double() for x in "AB")
    product = 2 * b @ a
    details = ww.WeightWatcher(model=model).analyze(peft=True)
    assert details.name.tolist() == ["lora_BA"]
    assert (details.N[0], details.M[0], details.num_evals[0]) == (80, 60, 4)
    assert details.norm[0] == pytest.approx(float(product.norm() ** 2))
    full = ww.WeightWatcher(model=model).analyze(peft="with_base").set_index("name")
    whole = model["q"].base_layer.weight.detach().double() + product
    assert list(full.index) == ["base", "lora_W_plus_AB", "lora_BA"]
    assert full.loc["lora_W_plus_AB"].num_evals == 60
    assert full.loc["lora_W_plus_AB"].norm == pytest.approx(float(whole.norm() ** 2))
    del model["q"].scaling
    with pytest.raises(UsageError, match="the PEFT attribute `scaling`"):
        ww.WeightWatcher(model=model).analyze(peft=True)


def test_smoothing_in_place_keeps_dtype_and_ids(net: Net) -> None:
    net.half()
    watcher = ww.WeightWatcher(model=net)
    wanted = watcher.analyze(detX=True).set_index("longname").detX_num
    assert watcher.SVDSmoothing() is net
    for name in ("block.0", "block.2"):
        weight = net.get_submodule(name).weight
        assert weight.dtype == torch.float16
        s = torch.linalg.svdvals(weight.detach().double())
        assert int((s > 1e-2 * s[0]).sum()) == pytest.approx(int(wanted[name]), abs=1)
    kernel = net.conv.weight.detach().double()
    kept = int(np.ceil(wanted["conv"] / 9))
    assert {int((torch.linalg.svdvals(kernel[:, :, i, j]) > 1e-3).sum()) for i in range(3) for j in range(3)} == {kept}


@pytest.mark.parametrize("method", ["alpha_min", "rmt", "svd", "auto"])
def test_every_method_of_smoothing(net: Net, method: str) -> None:
    before = net.block[0].weight.detach().clone()
    ww.WeightWatcher().SVDSmoothing(model=net, method=method, percent=0.5, layers=[5])
    assert not torch.equal(net.block[0].weight, before)
    state = {"fc.weight": np.random.default_rng(0).standard_normal((60, 50))}
    dropped = ww.WeightWatcher().SVDSmoothing(model=state, method="svd", percent=-0.2)
    assert dropped is state
    assert np.linalg.matrix_rank(state["fc.weight"]) == 40
    with pytest.raises(UnknownName):
        ww.WeightWatcher().SVDSmoothing(model=net, method="other")


def test_sharpening_returns_the_model_it_changed() -> None:
    rng = np.random.default_rng(0)
    model = nn.Sequential(nn.Linear(80, 100))
    model[0].weight.data = torch.tensor(rng.standard_normal((100, 80)), dtype=torch.float32)
    model[0].weight.data[3, 4] = 60
    top = float(torch.linalg.matrix_norm(model[0].weight.detach(), 2))
    watcher = ww.WeightWatcher(model=model)
    assert watcher.SVDSharpness() is model
    assert float(torch.linalg.matrix_norm(model[0].weight.detach(), 2)) < 0.5 * top


def test_shards_of_a_folder(tmp_path: Path, net: Net) -> None:
    state = net.state_dict()
    names = list(state)
    torch.save({n: state[n] for n in names[:3]}, tmp_path / "pytorch_model-00001-of-00002.bin")
    torch.save({n: state[n] for n in names[3:]}, tmp_path / "pytorch_model-00002-of-00002.bin")
    frame = ww.WeightWatcher.analyze_pytorch_bins(tmp_path)
    assert set(frame.model_filename) == {"pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"}
    whole = ww.WeightWatcher(model=tmp_path).analyze()
    assert sorted(frame.longname) == sorted(whole.longname)
    assert whole.layer_id.is_unique
    with pytest.raises(UsageError):
        ww.WeightWatcher.extract_pytorch_bins(tmp_path)
    with pytest.raises(UsageError):
        ww.WeightWatcher.describe_pytorch_bins(tmp_path / "empty")


def test_vector_metrics() -> None:
    frame = ww.WeightWatcher().vector_metrics([np.eye(64)[0], np.full(64, 0.125)])
    assert frame.localization_ratio.tolist() == pytest.approx([1, 64])
    assert frame.participation_ratio.tolist() == pytest.approx([1, 64**0.25])
    assert len(ww.WeightWatcher().vector_metrics(np.ones(5))) == 1
    with pytest.raises(UsageError):
        ww.WeightWatcher().vector_metrics(np.zeros(5))


def test_products_stacks_and_inverses(net: Net) -> None:
    watcher = ww.WeightWatcher(model=net)
    assert len(watcher.analyze(stacked=True)) == 1
    intra = watcher.analyze(intra=True, sparsify=False)
    assert intra.longname.tolist() == ["block.2.weight · block.0.weight"]
    assert intra.Xflag.all()
    plain, inverse = watcher.analyze(layers=[5]), watcher.analyze(layers=[5], inverse=True)
    assert inverse.lambda_max[0] == pytest.approx(1 / plain.sv_min[0] ** 2, rel=1e-6)
    top = watcher.analyze(layers=[5], xmax=2)
    assert top.xmax[0] < plain.xmax[0]
    assert top.lambda_max[0] == plain.lambda_max[0]


def test_the_model_is_left_as_it_was(net: Net) -> None:
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    attributes = {name: set(vars(module)) for name, module in net.named_modules()}
    ww.WeightWatcher(model=net).analyze(randomize=True, mp_fit=True, vectors=True)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert {name: set(vars(module)) for name, module in net.named_modules()} == attributes


def test_a_weight_that_two_modules_share_is_changed_once() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64))
    model[2].weight = model[0].weight
    ww.WeightWatcher(model=model).SVDSmoothing(method="svd", percent=-0.05)
    assert np.linalg.matrix_rank(model[0].weight.detach().double().numpy(), tol=1e-5) == 61


def test_smoothing_changes_all_layers_or_none() -> None:
    state = {"a.weight": np.random.default_rng(0).standard_normal((60, 50)), "b.weight": np.full((60, 50), np.nan)}
    before = state["a.weight"].copy()
    with pytest.raises((LayerscopeError, np.linalg.LinAlgError)):
        ww.WeightWatcher().SVDSmoothing(model=state, method="svd")
    assert (state["a.weight"] == before).all()


def test_modules_of_every_odd_kind_are_passed_over() -> None:
    class Odd(nn.Module):  # type: ignore[misc,name-defined]
        @property
        def weight(self) -> Any:
            raise RuntimeError("no")

    model = nn.ModuleList([nn.LazyLinear(10), Odd(), nn.Linear(60, 50), nn.LayerNorm(5, elementwise_affine=False)])
    model.append(nn.Linear(60, 50, device="meta"))
    watcher = ww.WeightWatcher(model=model)
    assert watcher.analyze().longname.tolist() == ["2"]
    assert len(watcher.analyze(layers=[1])) == 0  # a module without weights, as in 0.7.7


def test_left_out_layers_are_listed_with_the_reason() -> None:
    rng = np.random.default_rng(0)
    state = {"a.weight": rng.standard_normal((60, 50)), "nan.weight": np.full((60, 50), np.nan),
             "tiny.weight": rng.standard_normal((3, 3))}  # fmt: skip
    watcher = ww.WeightWatcher(model=state)
    details = watcher.analyze()
    assert details.status.tolist() == ["success", "failed"]
    assert set(watcher.left_out) == {"nan", "tiny"}
    assert "NaN" in watcher.left_out["nan"]


@pytest.mark.parametrize(
    "options",
    [{"min_evals": "x"}, {"max_N": None}, {"start_ids": "x"}, {"tolerance": None}, {"finger_thresh": "x"},
     {"layers": 3.7}, {"stacked": True, "layers": ["a"]},
     {"stacked": True, "layers": np.array([1, 2])}],
)  # fmt: skip
def test_arguments_of_the_wrong_type_are_refused(options: Any) -> None:
    with pytest.raises(UsageError):
        ww.WeightWatcher(model={"a.weight": np.eye(60)}).analyze(**options)


def test_plot_draws_each_layer_under_its_known_name(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weights = {"a.weight": rng.standard_normal((60, 50)), "<img src=x>/../b.weight": rng.standard_normal((40, 30))}
    watcher = ww.WeightWatcher(model=weights)
    details = watcher.analyze(plot=True, randomize=True, savefig=tmp_path / "made" / "here")
    found = {path.name for path in (tmp_path / "made" / "here").iterdir()}
    tags = ("esd", "esd2", "esd4", "randesd1")
    assert found == {f"ww.layer{i}.{tag}.png" for i in details.layer_id for tag in tags}
    assert [path.name for path in tmp_path.rglob("*.png")] != []
    watcher.analyze(plot=True, savefig=False)
    with pytest.raises(UsageError, match="savefig"):
        watcher.analyze(plot=True, savefig=3)
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot write to"):
        watcher.analyze(plot=True, savefig=tmp_path / "file")
    conv = ww.WeightWatcher(model={"c.weight": rng.standard_normal((20, 16, 3, 3))})
    conv.analyze(plot=True, pool=False, savefig=tmp_path / "slices")
    assert len(list((tmp_path / "slices").iterdir())) == 9 * 3
