"""Keras models: live, .keras, .weights.h5 and legacy .h5 say the same; nothing in them is run."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import layerscope
from layerscope.errors import Refused, TargetError, Unreadable
from layerscope.sources.layouts.keras_flax_kernels import Variable, lay_out_variable
from layerscope.sources.opening import open_target
from tests.nets import as_keras_model
from tests.requirements import require

h5py = require("h5py")
keras = require("keras")
L = keras.layers
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of Keras on torch


def every_layer() -> Any:
    """A model with one of each kind of layer, nested, wrapped and shared."""
    image = keras.Input((16, 16, 3), name="img")
    x = L.Conv2D(8, 3, name="stem")(image)
    x = L.DepthwiseConv2D(3, depth_multiplier=2)(x)
    x = L.SeparableConv2D(12, 3)(x)
    x = L.Conv2DTranspose(7, 2)(x)
    x = L.Conv2D(14, 1, groups=7)(x)
    x = L.Reshape((-1, 14))(L.BatchNormalization()(x))
    x = L.MultiHeadAttention(2, 5, name="mha")(x, x)
    x = L.Bidirectional(L.LSTM(6, return_sequences=True), name="bi")(x)
    x = L.GRU(9)(x)
    inner = keras.Sequential([keras.Input((9,)), L.Dense(9, name="a"), L.Dense(9)], name="inner")
    x = inner(inner(x))
    words = keras.Input((5,))
    y = L.SimpleRNN(9)(L.TimeDistributed(L.Dense(4), name="each")(L.Embedding(50, 4, name="tok")(words)))
    z = L.EinsumDense("ab,bcd->acd", output_shape=(3, 6))(L.Lambda(lambda t: t * 2)(L.Add()([x, y])))
    return keras.Model([image, words], z)


@pytest.fixture(scope="module")
def model() -> Any:
    return every_layer()


def facts(target: Any) -> dict[str, tuple[Any, ...]]:
    """What is told of each row, and its largest eigenvalue."""
    found = {}
    for row in layerscope.analyze(target, min_evals=2).rows:
        ref = row.ref
        value = row.metrics.get("lambda_max")
        found[row.name] = (ref.shape, ref.axes, ref.kind, ref.groups, ref.heads, row.skipped, value)
    return {name: fact for name, fact in found.items() if "seed_generator" not in name}  # Keras saves none of these


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5", ".h5"])
def test_files_say_what_the_live_model_says(tmp_path: Path, model: Any, suffix: str) -> None:
    path = tmp_path / f"m{suffix}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (model.save_weights if suffix == ".weights.h5" else model.save)(path)
    live, file = facts(model), facts(path)
    if suffix == ".weights.h5":  # it says neither that a convolution has groups nor what an einsum's equation is
        assert file.pop("conv2d/kernel")[3] == 1
        assert "equation" in file.pop("einsum_dense/kernel")[5]
        del live["conv2d/kernel"], live["einsum_dense/kernel"]
    assert file == live
    if suffix != ".weights.h5":
        order = [list(dict.fromkeys(name.split("/")[0] for name in names)) for names in (file, live)]
        assert order[0] == order[1]


def test_axes_names_gates_and_heads(model: Any) -> None:
    live = facts(model)
    assert live["stem/kernel"][:3] == ((3, 3, 3, 8), "hwio", "conv2d")
    assert live["depthwise_conv2d/kernel"][:4] == ((3, 3, 1, 16), "hwio", "conv2d", 8)
    assert live["separable_conv2d/pointwise_kernel"][1] == "hwio"
    assert live["conv2d_transpose/kernel"][1] == "hwoi"
    assert live["conv2d/kernel"][3] == 7
    assert live["mha/query/kernel"][:5] == ((14, 10), "io", "dense", 1, 2)
    assert live["bi/backward_lstm/lstm_cell/recurrent_kernel[g]"][:3] == ((6, 6), "io", "lstm")
    assert live["gru/gru_cell/kernel[z]"][:3] == ((12, 9), "io", "gru")
    assert live["inner/a/kernel"][1] == "io"
    assert live["tok/embeddings"][1:3] == ("oi", "embedding")
    assert live["einsum_dense/kernel"][:2] == ((9, 18), "io")
    assert live["batch_normalization/moving_mean"][5] == "running statistics"


def test_gates_are_the_ones_that_keras_computes_with(rng: np.random.Generator) -> None:
    layer = L.GRU(5)
    layer.build((None, None, 4))
    kernel = rng.standard_normal((4, 15)).astype(np.float32)
    layer.set_weights([kernel, np.zeros((5, 15), np.float32), np.zeros((2, 15), np.float32)])
    source = open_target(keras.Sequential([keras.Input((None, 4)), layer]))
    refs = {ref.name.rpartition("[")[2]: ref for ref in source.layers() if "/kernel[" in ref.name}
    np.testing.assert_array_equal(source.read(refs["r]"]), kernel[:, 5:10])


def test_depthwise_kernels_equal_torchs_grouped_convolution(rng: np.random.Generator) -> None:
    torch = require("torch")
    kernel = rng.standard_normal((3, 3, 60, 2)).astype(np.float32)
    live = torch.nn.Conv2d(60, 120, 3, groups=60, bias=False)
    live.weight.data = torch.from_numpy(kernel.transpose(2, 3, 0, 1).reshape(120, 1, 3, 3).copy())
    layer = L.DepthwiseConv2D(3, depth_multiplier=2, use_bias=False)
    layer.build((None, 8, 8, 60))
    layer.set_weights([kernel])
    ours = layerscope.analyze(keras.Sequential([keras.Input((8, 8, 60)), layer]), min_evals=2)
    theirs = layerscope.analyze(live, min_evals=2)
    np.testing.assert_allclose(*(next(iter(r.spectra.values())) for r in (ours, theirs)), rtol=1e-12)


@pytest.mark.parametrize(
    ("equation", "shape", "axes", "view"),
    [
        ("ab,bc->ac", (4, 6), "io", (4, 6)),
        ("abc,cde->abde", (6, 2, 5), "io", (6, 10)),
        ("abcd,cde->abe", (2, 5, 6), "io", (10, 6)),
        ("eab,ebc->eac", (3, 4, 5), "eio", (3, 4, 5)),
        ("ab,cb->ac", (6, 4), "io", (4, 6)),
        ("...x,xy->...y", (4, 5), "io", (4, 5)),
    ],
)
def test_an_einsums_equation_tells_its_axes(
    rng: np.random.Generator, equation: str, shape: tuple[int, ...], axes: str, view: tuple[int, ...]
) -> None:
    laid = lay_out_variable(Variable("d/kernel", shape, "float32", "einsum", equation=equation))
    [ref] = laid.refs
    assert (ref.axes, ref.shape) == (axes, view)
    kernel = rng.standard_normal(shape)
    assert laid.arrange(kernel).shape == view
    if equation == "ab,cb->ac":
        np.testing.assert_array_equal(laid.arrange(kernel), kernel.T)


def test_bfloat16_variables_keep_their_precision(tmp_path: Path) -> None:
    layer = L.Dense(60, dtype="bfloat16")
    model = keras.Sequential([keras.Input((70,)), layer])
    model.save_weights(tmp_path / "m.weights.h5")
    model.save(tmp_path / "m.keras")
    live, *files = (layerscope.analyze(t).rows[0] for t in (model, tmp_path / "m.weights.h5", tmp_path / "m.keras"))
    assert live.ref.dtype == "bfloat16"
    assert live.name == f"{layer.name}/kernel"
    for file in files:
        assert (file.name, file.ref.dtype, file.metrics) == (live.name, live.ref.dtype, live.metrics)


def test_no_framework_is_imported_to_read_a_file_and_no_lambda_is_run(tmp_path: Path, model: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save(tmp_path / "m.keras")
    evil = tmp_path / "evil.keras"
    code = {"class_name": "__lambda__", "config": {"code": "4wEAAAA=", "defaults": None, "closure": None}}
    with zipfile.ZipFile(tmp_path / "m.keras") as old, zipfile.ZipFile(evil, "w") as new:
        for info in old.infolist():
            data = old.read(info)
            if info.filename == "config.json":
                config = json.loads(data)
                [layer] = [x for x in config["config"]["layers"] if x["class_name"] == "Lambda"]
                layer["config"]["function"] = code
                layer["module"] = "os"
                data = json.dumps(config).encode()
            new.writestr(info.filename, data)
    script = (
        "import sys, layerscope\n"
        f"report = layerscope.analyze({str(evil)!r}, min_evals=2)\n"
        "assert not {'keras', 'tensorflow', 'torch', 'jax'} & set(sys.modules)\n"
        "print(sum(row.spectrum is not None for row in report.rows))"
    )
    assert int(subprocess.check_output([sys.executable, "-c", script])) > 20


def test_a_model_that_is_not_built_says_so() -> None:
    with pytest.raises(Unreadable, match="build it"):
        layerscope.analyze(keras.Sequential([L.Dense(3)]))


def test_the_live_model_is_left_as_it_was() -> None:
    torch = require("torch")
    from tests.nets import Net

    model = as_keras_model(Net(), Path())
    before = [np.asarray(v.value.detach()).copy() for v in model.variables]
    grads = [v.value.requires_grad for v in model.variables]
    layerscope.analyze(model)
    assert all((a == np.asarray(v.value.detach())).all() for a, v in zip(before, model.variables, strict=True))
    assert grads == [v.value.requires_grad for v in model.variables]
    assert torch.is_grad_enabled()


def h5(folder: Path, build: Any) -> Path:
    path = folder / "m.weights.h5"
    with h5py.File(path, "w") as file:
        build(file)
    return path


def test_links_out_of_a_file_are_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["secret"] = np.ones((60, 70))

    def link(file: Any) -> None:
        file["layers/dense/vars/0"] = h5py.ExternalLink("other.h5", "/secret")

    with pytest.raises(Refused, match="not followed"):
        open_target(h5(tmp_path, link))
    (tmp_path / "raw.bin").write_bytes(bytes(8 * 4200))

    def storage(file: Any) -> None:
        file.create_dataset("layers/dense/vars/0", (60, 70), "f8", external=[("raw.bin", 0, 8 * 4200)])

    assert "other files" in next(iter(open_target(h5(tmp_path, storage)).layers())).skipped

    def virtual(file: Any) -> None:
        layout = h5py.VirtualLayout((60, 70), "f8")
        layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "secret", (60, 70))
        file.create_virtual_dataset("layers/dense/vars/0", layout)

    assert "other files" in next(iter(open_target(h5(tmp_path, virtual)).layers())).skipped


def test_loops_soft_links_and_bombs_end(tmp_path: Path) -> None:
    def loop(file: Any) -> None:
        file["layers/dense/vars/0"] = np.ones((60, 70))
        file["layers/again"] = file["layers"]

    assert [ref.name for ref in open_target(h5(tmp_path, loop)).layers()] == ["dense/kernel"]

    def soft(file: Any) -> None:
        file["layers/dense/vars/0"] = h5py.SoftLink("/layers/dense/vars/0")

    with pytest.raises(TargetError):
        open_target(h5(tmp_path, soft))

    def bomb(file: Any) -> None:
        file.create_dataset("layers/dense/vars/0", (1 << 20, 1 << 20), "f4", chunks=(64, 64), compression="gzip")

    [ref] = open_target(h5(tmp_path, bomb)).layers()
    assert "bytes, but the file stores only" in ref.skipped


HOSTILE_CONFIGS = [b"", b"[]", b"{", b'{"config": 5}', b'{"config": {"layers": 7, "name": 3}}', b"[" * 100_000,
                   b'{"config": {"layers": [{"config": {"name": "x", "groups": "no", "equation": 5}}]}}']  # fmt: skip


@pytest.mark.parametrize("config", HOSTILE_CONFIGS)
def test_configurations_are_believed_only_where_they_make_sense(tmp_path: Path, config: bytes) -> None:
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file["layers/dense/vars/0"] = np.ones((60, 70), np.float32)
    with zipfile.ZipFile(tmp_path / "m.keras", "w") as archive:
        archive.writestr("model.weights.h5", buffer.getvalue())
        archive.writestr("config.json", config)
    if config.startswith((b"[]", b'{"')):
        [ref] = open_target(tmp_path / "m.keras").layers()
        assert ref.axes == "io"
        return
    with pytest.raises(Unreadable, match="not JSON"):
        open_target(tmp_path / "m.keras")


@pytest.mark.parametrize("keep", [0, 4, 8, 100, 1000, 0.5, 0.99])
@pytest.mark.parametrize("suffix", [".keras", ".weights.h5"])
def test_cut_files_are_unreadable(tmp_path: Path, suffix: str, keep: float) -> None:
    model = keras.Sequential([keras.Input((70,)), L.Dense(60)])
    whole = tmp_path / f"m{suffix}"
    (model.save if suffix == ".keras" else model.save_weights)(whole)
    raw = whole.read_bytes()
    whole.write_bytes(raw[: int(keep if keep >= 1 or keep == 0 else keep * len(raw))])
    with pytest.raises(TargetError):
        report = layerscope.analyze(whole)
        raise Unreadable(str([row.skipped for row in report.rows if row.failed]))
