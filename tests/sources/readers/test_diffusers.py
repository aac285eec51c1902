"""A pipeline of several models: a report each."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import layerscope
from layerscope.errors import Refused, Unreadable
from tests.command_line import cli


@pytest.fixture
def pipeline(tmp_path: Path, rng: np.random.Generator) -> Path:
    from safetensors.numpy import save_file

    index = {
        "_class_name": "Pipeline", "unet": ["diffusers", "UNet"], "vae": ["diffusers", "VAE"],
        "text_encoder": ["transformers", "CLIP"], "scheduler": ["diffusers", "DDIM"], "safety_checker": [None, None],
    }  # fmt: skip
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    for name in ("unet", "vae", "text_encoder", "scheduler"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    weight = rng.standard_normal((70, 60)).astype(np.float32)
    for name in ("unet", "vae"):
        save_file({f"{name}.weight": weight}, tmp_path / name / "diffusion_pytorch_model.safetensors")
    save_file({"half.weight": weight}, tmp_path / "unet" / "diffusion_pytorch_model.fp16.safetensors")
    save_file({"fc.weight": weight}, tmp_path / "text_encoder" / "model.safetensors")
    return tmp_path


def test_each_model_has_its_report(pipeline: Path) -> None:
    reports = layerscope.analyze_each(pipeline, min_evals=20)
    assert list(reports) == ["unet", "vae", "text_encoder"]
    assert [row.name for row in reports["unet"].rows] == ["unet.weight"]
    assert list(layerscope.analyze_each(pipeline / "vae")) == ["vae"]


def test_analyze_names_the_models(pipeline: Path) -> None:
    with pytest.raises(Unreadable, match="a pipeline of 3 models: unet, vae, text_encoder"):
        layerscope.analyze(pipeline)


@pytest.mark.parametrize("command", ["analyze", "describe"])
def test_the_command_shows_each(pipeline: Path, command: str) -> None:
    shown = cli(command, pipeline, "-f", "csv").stdout
    found = [name in shown for name in ("unet.weight", "vae.weight", "fc.weight", "half.weight")]
    assert found == [True, True, True, False]


@pytest.mark.parametrize("index", ["", "[]", "{", '{"a": 1}', '{"scheduler": ["d", "S"]}'])
def test_an_index_that_names_no_model_is_unreadable(pipeline: Path, index: str) -> None:
    (pipeline / "model_index.json").write_text(index)
    with pytest.raises(Unreadable):
        layerscope.analyze_each(pipeline)


def test_parts_outside_the_folder_are_refused(pipeline: Path) -> None:
    (pipeline / "model_index.json").write_text('{"../elsewhere": ["d", "M"]}')
    with pytest.raises(Refused):
        layerscope.analyze_each(pipeline)


@pytest.mark.parametrize("suffix", [".gguf", ".onnx", ".keras", ".msgpack", ".tflite"])
def test_a_folder_with_one_model_of_any_format_is_that_model(tmp_path: Path, suffix: str) -> None:
    from tests.nets import FORMATS, Net

    names = {".gguf": "gguf", ".onnx": "onnx", ".keras": "keras", ".msgpack": "msgpack", ".tflite": "tflite"}
    folder = tmp_path / "hub"
    folder.mkdir()
    path = FORMATS[names[suffix]][1](Net(), folder)
    (folder / "README.md").write_text("a model")
    (folder / "config.json").write_text("{}")
    assert [row.name for row in layerscope.describe(folder).rows] == [
        row.name for row in layerscope.describe(path).rows
    ]
