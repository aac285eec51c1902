"""Models in several files or inside archives: put together, or described with the command that helps."""

from __future__ import annotations

import json
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import layerscope
from layerscope.errors import Refused, TargetError, UnknownFormat, Unreadable
from layerscope.sources import opening
from tests.command_line import cli
from tests.requirements import require

torch: Any = require("torch")
safetensors: Any = require("safetensors.torch")


def values(target: Path) -> dict[str, np.ndarray]:
    with opening.opened_source(target) as source:
        return {ref.name: np.asarray(source.read(ref)) for ref in source.layers() if not ref.skipped}


# ---------------------------------------------------------------------------------------------------- modules.json


def sentence_model(folder: Path, paths: list[str]) -> Path:
    torch.manual_seed(0)
    for number, path in enumerate(paths):
        (folder / path).mkdir(parents=True, exist_ok=True)
        weights = {f"linear{number}.weight": torch.randn(60, 50)}
        safetensors.save_file(weights, folder / path / "model.safetensors")
    (folder / "1_Pooling").mkdir(exist_ok=True)
    listed = [{"idx": i, "name": str(i), "path": path} for i, path in enumerate([*paths, "1_Pooling"])]
    (folder / "modules.json").write_text(json.dumps(listed))
    return folder


@pytest.mark.parametrize("paths", [["", "2_Dense", "3_Dense"], ["0_Transformer", "2_Dense"], [""]])
def test_modules_of_a_sentence_model_are_one_model(tmp_path: Path, paths: list[str]) -> None:
    found = values(sentence_model(tmp_path, paths))
    names = [f"{path}.linear{i}.weight" if i else "linear0.weight" for i, path in enumerate(paths)]
    assert list(found) == names
    for number, path in enumerate(paths):
        stored = safetensors.load_file(tmp_path / path / "model.safetensors")[f"linear{number}.weight"]
        np.testing.assert_array_equal(found[names[number]], stored.numpy())
    assert [row.name for row in layerscope.analyze(tmp_path, engine="processes", jobs=2).rows] == names


@pytest.mark.parametrize("content", ["{", "{}", '[{"idx": 0}]', '[{"path": 3}]', "[1]"])
def test_a_damaged_list_of_modules_is_refused(tmp_path: Path, content: str) -> None:
    (sentence_model(tmp_path, [""]) / "modules.json").write_text(content)
    if content != "{}":  # an empty object lists no modules
        with pytest.raises(Unreadable, match=r"modules\.json"):
            values(tmp_path)


def test_modules_outside_of_the_folder_are_refused(tmp_path: Path) -> None:
    folder = sentence_model(tmp_path / "model", [""])
    (folder / "modules.json").write_text(json.dumps([{"path": ""}, {"path": "../other"}]))
    sentence_model(tmp_path / "other", [""])
    with pytest.raises(Refused):
        values(folder)


# ------------------------------------------------------------------------------------------------- tensor parallel

LLAMA = {
    "tok_embeddings.weight": ((100, 64), 1),
    "layers.0.attention.wq.weight": ((64, 64), 0),
    "layers.0.attention.wo.weight": ((64, 64), 1),
    "layers.0.feed_forward.w1.weight": ((160, 64), 0),
    "layers.0.feed_forward.w2.weight": ((64, 160), 1),
    "layers.0.attention_norm.weight": ((64,), None),
    "output.weight": ((100, 64), 0),
}
MEGATRON = {
    "language_model.embedding.word_embeddings.weight": ((128, 64), 0),
    "encoder.layers.0.self_attention.query_key_value.weight": ((192, 64), 0),
    "encoder.layers.0.self_attention.query_key_value.bias": ((192,), 0),
    "encoder.layers.0.self_attention.dense.weight": ((64, 64), 1),
    "encoder.layers.0.self_attention.dense.bias": ((64,), None),
    "encoder.layers.0.mlp.dense_4h_to_h.weight": ((64, 256), 1),
    "encoder.layers.0.input_layernorm.weight": ((64,), None),
}


def split(table: dict[str, Any], count: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    torch.manual_seed(0)
    whole = {name: torch.randn(shape) for name, (shape, _) in table.items()}
    parts: list[dict[str, Any]] = [{} for _ in range(count)]
    for name, (_, axis) in table.items():
        pieces = whole[name].chunk(count, axis) if axis is not None else [whole[name]] * count
        for part, piece in zip(parts, pieces, strict=True):
            part[name] = piece.clone()
    return whole, parts


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize(
    ("table", "name"),
    [(LLAMA, "consolidated.{:02}.pth"), (MEGATRON, "mp_rank_{:02}_model_states.pt"), (MEGATRON, "mp_rank_{:02}.pt")],
)
def test_parts_of_tensor_parallel_training_are_joined(tmp_path: Path, table: Any, name: str, count: int) -> None:
    whole, parts = split(table, count)
    for number, part in enumerate(parts):
        torch.save({"module": part} if "states" in name else part, tmp_path / name.format(number))
    found = values(tmp_path)
    assert set(found) == {key for key, (shape, _) in table.items() if len(shape) > 1}
    for key, array in found.items():
        np.testing.assert_array_equal(array, whole[key].numpy())
    if count > 1:
        with pytest.raises(Unreadable, match=f"one of {count} parts of a model; pass the folder"):
            values(tmp_path / name.format(0))


def test_a_missing_part_and_parts_of_two_models_are_refused(tmp_path: Path) -> None:
    _, parts = split(LLAMA, 4)
    for number in (0, 1, 3):
        torch.save(parts[number], tmp_path / f"consolidated.{number:02}.pth")
    with pytest.raises(Unreadable, match=r"\[0, 1, 3\]"):
        values(tmp_path)
    torch.save({**parts[2], "extra.weight": torch.ones(3, 3)}, tmp_path / "consolidated.02.pth")
    with pytest.raises(Unreadable, match=r"extra\.weight"):
        values(tmp_path)


def test_a_tensor_of_unknown_split_is_not_judged(tmp_path: Path) -> None:
    for number in range(2):
        tensors = {"layers.0.attention.wq.weight": torch.randn(60, 50), "strange.weight": torch.randn(60, 50)}
        torch.save(tensors, tmp_path / f"consolidated.{number:02}.pth")
    rows = {row.name: row.skipped for row in layerscope.describe(tmp_path).rows}
    assert "how it is split is not known" in rows["strange.weight"]
    assert not rows["layers.0.attention.wq.weight"]


# ------------------------------------------------------------------------------------------- what cannot be read


def archived(path: Path, names: list[str]) -> Path:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name in names:
                archive.writestr(name, b"x")
        return path
    content = path.parent / "content"
    content.write_bytes(b"x")
    with tarfile.open(path, f"w:{path.suffix[1:]}" if path.suffix != ".tar" else "w") as tar:
        for name in names:
            tar.add(content, name)
    return path


@pytest.mark.parametrize(
    ("file", "names", "message"),
    [
        ("a2c.zip", ["data", "policy.pth", "pytorch_variables.pth"], "Stable-Baselines3.*unzip a2c.zip policy.pth"),
        ("model.zip", ["model/a b.pt"], "unzip model.zip 'model/a b.pt'"),
        ("model.tar.gz", ["x/model.safetensors"], "tar -xf model.tar.gz x/model.safetensors"),
        ("model.tar.xz", ["model.gguf"], "tar -xf model.tar.xz model.gguf"),
        ("model.tar", ["model.onnx", "other.onnx"], "2 model files; unpack it with: tar -xf model.tar model.onnx"),
        ("texts.zip", ["readme"], "without a model in a known format"),
    ],
)
def test_archives_name_the_command_that_unpacks_them(tmp_path: Path, file: str, names: list[str], message: str) -> None:
    with pytest.raises(UnknownFormat, match=message):
        values(archived(tmp_path / file, names))
    result = cli("analyze", str(tmp_path / file))
    assert result.returncode == 3
    assert len(result.stderr.strip().splitlines()) == 1


def test_sharded_training_says_how_to_put_the_weights_together(tmp_path: Path) -> None:
    step = tmp_path / "global_step1"
    step.mkdir()
    torch.save({"module": {"fc.weight": torch.empty(0)}}, step / "mp_rank_00_model_states.pt")
    (tmp_path / "zero_to_fp32.py").write_text("")
    with pytest.raises(TargetError, match=r"python zero_to_fp32\.py"):
        values(tmp_path)
    [row] = layerscope.describe(step).rows
    assert "zero_to_fp32" in row.skipped
    flat = {"_fsdp_wrapped_module._flat_param": torch.randn(100), "block.flat_param_0": torch.randn(100)}
    torch.save(flat, tmp_path / "flat.pt")
    assert all("FULL_STATE_DICT" in row.skipped for row in layerscope.describe(tmp_path / "flat.pt").rows)
