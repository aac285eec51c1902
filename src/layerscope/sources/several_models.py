"""Tensors of several models by name, from files without their framework or from live models."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np

from layerscope.errors import UsageError, without_secrets
from layerscope.records.comparison import letters
from layerscope.records.layers import LayerRef
from layerscope.sources import opening
from layerscope.tensor_names import matching_keys, strip_wrapper_prefixes
from layerscope.text import distinct_paths, plural

if TYPE_CHECKING:
    from layerscope.array_types import Array

SELECTIONS = ("learned", "weights", "all")
CONSTANT_SUFFIXES = ("inv_freq", "position_ids", "attn.masked_bias", "relative_position_index")  # never learned
NOT_LEARNED_KINDS = ("buffer", "scalar", "ingredient", "copy", "optimizer", "factor", "mask", "quantized")
MAX_NAMED_TENSORS = 4  # tensors named in an error message


@dataclass(frozen=True)
class Tensor:
    """One tensor of a model as its header describes it."""

    name: str  # without the prefixes of training wrappers
    shape: tuple[int, ...]
    dtype: str
    is_learned: bool
    ref: LayerRef


def tensors_of(source: Any) -> dict[str, Tensor]:
    """Return every floating-point tensor of an opened source by name; tied tensors appear once."""
    tensor_by_name: dict[str, Tensor] = {}
    for ref in source.layers():
        name = strip_wrapper_prefixes(ref.tensor)
        is_floating = "float" in ref.dtype or ref.dtype.startswith("e")
        if name in tensor_by_name or not is_floating or ref.kind == "tied":
            continue
        is_causal_mask = name.endswith(".attn.bias") and len(ref.shape) == 4  # GPT-2's causal mask, a triangle of ones
        is_learned = ref.kind not in NOT_LEARNED_KINDS and not name.endswith(CONSTANT_SUFFIXES) and not is_causal_mask
        whole_ref = replace(ref, part=None, expert=None)
        tensor_by_name[name] = Tensor(
            name, tuple(ref.shape) if ref.part is None and ref.expert is None else (), ref.dtype, is_learned, whole_ref
        )
    return tensor_by_name


def select_names(tensors: Mapping[str, Tensor], select: str) -> list[str]:
    """Return the names of the selected tensors: "learned", "weights" (two or more axes), "all", or a glob on the names.

    :raises UsageError: no tensor matches.
    """
    if select == "all":
        return list(tensors)
    trainable = [name for name, tensor in tensors.items() if tensor.is_learned]
    if select == "learned":
        names = trainable
    elif select == "weights":
        names = [name for name in trainable if len(tensors[name].shape) != 1]
    else:
        names = [name for name in tensors if fnmatchcase(name, select)]
    if not names:
        raise UsageError(f"select={select!r} matches no tensor; use learned, weights, all, or a glob on the names")
    return names


class OpenedModels:
    """Several opened models, read one tensor at a time."""

    def __init__(self, models: Mapping[str, Any], select: str, partial: bool) -> None:
        """Open the models and match their tensors by name and shape.

        :raises UsageError: without ``partial``, some tensors are missing from a model or differ in shape.
        """
        self.names = tuple(models)
        self._stack = ExitStack()
        try:
            self._sources = [self._stack.enter_context(opening.opened_source(model)) for model in models.values()]
            if not partial:
                for name, source in zip(self.names, self._sources, strict=True):
                    _check_decoded(name, source)
            tensors_by_model = _with_matching_names([tensors_of(source) for source in self._sources])
            selected = [select_names(tensors, select) for tensors in tensors_by_model]
            shared = set(selected[0]).intersection(*selected[1:])
            common = [name for name in selected[0] if name in shared]
            unshared = sorted({name for names in selected for name in names} - shared)
            reshaped = [name for name in common if len({tensors[name].shape for tensors in tensors_by_model}) > 1]
            if (unshared or reshaped) and not partial:
                raise UsageError(_describe_difference(self.names, tensors_by_model, unshared, reshaped))
            comparable = shared.difference(reshaped)
            self.tensors = {name: tensors_by_model[0][name] for name in common if name in comparable}
            self._tensors_by_model = tensors_by_model
            self.left_out = (*unshared, *reshaped)
            if not self.tensors:
                raise UsageError(
                    f"{', '.join(self.names)} have no tensor of the same name and shape; compare models of one "
                    "architecture"
                )
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> OpenedModels:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def read(self, name: str) -> list[Array]:
        """Return a tensor of each model, flattened.

        :raises UsageError: the models have different numbers of entries.
        """
        sources_and_tensors = zip(self._sources, self._tensors_by_model, strict=True)
        vectors = [np.asarray(source.read(tensors[name].ref)).reshape(-1) for source, tensors in sources_and_tensors]
        if len({vector.size for vector in vectors}) > 1:
            sizes = ", ".join(f"{vector.size:,}" for vector in vectors)
            raise UsageError(f"{name} must have the same size in all models, but has {sizes} entries")
        return vectors

    def each(self) -> Iterator[tuple[str, list[Array]]]:
        """Yield every common tensor: its name and its values in each model."""
        for name in self.tensors:
            yield name, self.read(name)


def _check_decoded(name: str, source: Any) -> None:
    """Check that every quantized weight of a model is decoded.

    :raises UsageError: one is not; the message names it.
    """
    for ref in source.layers():
        if ref.kind == "quantized":
            raise UsageError(
                f"{name}: {ref.tensor} is {ref.skipped}; pass the model in a format that is decoded, "
                "or partial=True to compare the other tensors"
            )


def _with_matching_names(tensors_by_model: list[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
    """The tensors of each model under the names by which :func:`matching_keys` matches them."""
    keys = matching_keys(*(list(tensors) for tensors in tensors_by_model))
    return [
        {key_by_name[name]: tensor for name, tensor in tensors.items()}
        for key_by_name, tensors in zip(keys, tensors_by_model, strict=True)
    ]


def _describe_difference(
    names: Sequence[str], tensors_by_model: list[dict[str, Tensor]], unshared: list[str], reshaped: list[str]
) -> str:
    """Describe in one line how the tensors of the models differ."""
    differences = []
    if unshared:
        owners = {
            name: [n for n, tensors in zip(names, tensors_by_model, strict=True) if name in tensors]
            for name in unshared
        }
        examples = ", ".join(f"{name} (only in {', '.join(owners[name])})" for name in unshared[:MAX_NAMED_TENSORS])
        differences.append(
            f"{plural(len(unshared), 'tensor')} missing from some models: {examples}"
            f"{', …' if len(unshared) > MAX_NAMED_TENSORS else ''}"
        )
    if reshaped:
        shapes = {
            n: dict.fromkeys(str(tensors[n].shape) for tensors in tensors_by_model)
            for n in reshaped[:MAX_NAMED_TENSORS]
        }
        examples = ", ".join(f"{n} {' and '.join(distinct)}" for n, distinct in shapes.items())
        differences.append(
            f"{plural(len(reshaped), 'tensor')} with different shapes: {examples}"
            f"{', …' if len(reshaped) > MAX_NAMED_TENSORS else ''}"
        )
    return f"{'; '.join(differences)}; partial=True compares the other tensors"


def name_models(models: Any) -> dict[str, Any]:
    """Return several models by name: the keys of a mapping, else the distinct ends of paths, or A, B, …

    :raises UsageError: fewer than two models.
    """
    if isinstance(models, Mapping) and not all(hasattr(x, "shape") for x in models.values()):
        model_by_name = {str(name): model for name, model in models.items()}
        if len(model_by_name) < len(models):
            raise UsageError(f"model names must differ as text; two of {list(models)} do not")
    else:
        model_list = list(models)
        are_paths = all(isinstance(model, str) or hasattr(model, "__fspath__") for model in model_list)
        names = shorten_paths([str(model) for model in model_list]) if are_paths else list(letters(len(model_list)))
        model_by_name = dict(zip(names, model_list, strict=True))
    if len(model_by_name) < 2:
        raise UsageError(f"a comparison needs two models or more, not {len(model_by_name)}")
    return model_by_name


def shorten_paths(paths: Sequence[str]) -> list[str]:
    """Return the ends of paths that distinguish them, without a suffix that all share."""
    distinct = list(distinct_paths([without_secrets(str(path)) for path in paths]))
    suffixes = {PurePath(name).suffix for name in distinct}
    without_suffix = [name.removesuffix(next(iter(suffixes))) for name in distinct] if len(suffixes) == 1 else distinct
    return without_suffix if len(set(without_suffix)) == len(without_suffix) and all(without_suffix) else distinct


def index_pairs(count: int) -> Iterator[tuple[int, int]]:
    """Return the index pairs (i, j), i < j, of a sequence of ``count`` items."""
    return itertools.combinations(range(count), 2)
