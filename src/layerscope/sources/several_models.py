"""A model as a point: its learned tensors by name, from a file without its framework or from a live model."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np

from layerscope.errors import UsageError
from layerscope.records.comparison import letters
from layerscope.records.layers import LayerRef
from layerscope.sources import opening
from layerscope.tensor_names import strip_wrapper_prefixes
from layerscope.text import distinct_paths

if TYPE_CHECKING:
    from layerscope.array_types import Array

SELECTIONS = ("learned", "weights", "all")
CONSTANT = ("inv_freq", "position_ids", "attn.masked_bias", "relative_position_index")  # never learned
MOST_NAMED = 4  # tensors that a message names


@dataclass(frozen=True)
class Tensor:
    """One tensor of a model: what the header says."""

    name: str  # without what training wrappers put before it
    shape: tuple[int, ...]
    dtype: str
    learned: bool
    ref: LayerRef


def tensors_of(source: Any) -> dict[str, Tensor]:
    """Every floating tensor of an opened source, by name, tied ones once."""
    found: dict[str, Tensor] = {}
    for ref in source.layers():
        name = strip_wrapper_prefixes(ref.tensor)
        floating = "float" in ref.dtype or ref.dtype.startswith("e")
        if name in found or not floating or ref.kind == "tied":
            continue
        mask = name.endswith(".attn.bias") and len(ref.shape) == 4  # of GPT-2: a triangle of ones
        learned = ref.kind not in ("buffer", "scalar") and not name.endswith(CONSTANT) and not mask
        whole = replace(ref, part=None, expert=None)
        found[name] = Tensor(
            name, tuple(ref.shape) if ref.part is None and ref.expert is None else (), ref.dtype, learned, whole
        )
    return found


def chosen(tensors: Mapping[str, Tensor], select: str) -> list[str]:
    """Names of the tensors that count: "learned", "weights" (of two axes or more), "all", or a glob on the names.

    :raises UsageError: nothing matches.
    """
    if select == "all":
        return list(tensors)
    learned = [name for name, tensor in tensors.items() if tensor.learned]
    if select == "learned":
        found = learned
    elif select == "weights":
        found = [name for name in learned if len(tensors[name].shape) != 1]
    else:
        found = [name for name in tensors if fnmatchcase(name, select)]
    if not found:
        raise UsageError(f"select={select!r} leaves no tensor: learned, weights, all, or a glob on the names")
    return found


class Opened:
    """Several models, of which one tensor at a time is read from each."""

    def __init__(self, models: Mapping[str, Any], select: str, partial: bool) -> None:
        """
        :raises UsageError: tensors that some of them lack, or of other shapes, without ``partial``.
        """
        self.names = tuple(models)
        self._stack = ExitStack()
        try:
            self._sources = [self._stack.enter_context(opening.opened(model)) for model in models.values()]
            every = [tensors_of(source) for source in self._sources]
            wanted = [chosen(tensors, select) for tensors in every]
            common = [name for name in wanted[0] if all(name in names for names in wanted)]
            apart = sorted({name for names in wanted for name in names} - set(common))
            other = [name for name in common if len({tensors[name].shape for tensors in every}) > 1]
            if (apart or other) and not partial:
                raise UsageError(_difference(self.names, every, apart, other))
            self.tensors = {name: every[0][name] for name in common if name not in other}
            self._every = every
            self.left_out = (*apart, *other)
            if not self.tensors:
                raise UsageError(f"{', '.join(self.names)} have no tensor of the same name and shape")
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def read(self, name: str) -> list[Array]:
        """A tensor of each model, flat.

        :raises UsageError: they hold another number of entries.
        """
        pairs = zip(self._sources, self._every, strict=True)
        found = [np.asarray(source.read(tensors[name].ref)).reshape(-1) for source, tensors in pairs]
        if len({vector.size for vector in found}) > 1:
            raise UsageError(f"{name}: {', '.join(f'{vector.size:,}' for vector in found)} entries")
        return found

    def each(self) -> Iterator[tuple[str, list[Array]]]:
        """Every common tensor of each model."""
        for name in self.tensors:
            yield name, self.read(name)


def _difference(names: Sequence[str], every: list[dict[str, Tensor]], apart: list[str], other: list[str]) -> str:
    """What two models lack of each other, in a line."""
    said = []
    if apart:
        owners = {name: [n for n, tensors in zip(names, every, strict=True) if name in tensors] for name in apart}
        some = ", ".join(f"{name} (only in {', '.join(owners[name])})" for name in apart[:MOST_NAMED])
        said.append(f"{len(apart)} tensors are not in all models: {some}{', …' if len(apart) > MOST_NAMED else ''}")
    if other:
        shapes = {n: dict.fromkeys(str(tensors[n].shape) for tensors in every) for n in other[:MOST_NAMED]}
        some = ", ".join(f"{n} {' and '.join(found)}" for n, found in shapes.items())
        said.append(f"{len(other)} have other shapes: {some}{', …' if len(other) > MOST_NAMED else ''}")
    return f"{'; '.join(said)}; partial=True compares the rest"


def named(models: Any) -> dict[str, Any]:
    """Models by name: a mapping's own names; of a sequence A, B, … or the ends of their paths that tell them apart.

    :raises UsageError: fewer than two.
    """
    if isinstance(models, Mapping) and not all(hasattr(x, "shape") for x in models.values()):
        found = {str(name): model for name, model in models.items()}
        if len(found) < len(models):
            raise UsageError(f"two models are called {next(iter(found))!r} once their names are text")
    else:
        several = list(models)
        files = all(isinstance(model, str) or hasattr(model, "__fspath__") for model in several)
        names = short([str(model) for model in several]) if files else list(letters(len(several)))
        found = dict(zip(names, several, strict=True))
    if len(found) < 2:
        raise UsageError(f"distances are between two models or more, not {len(found)}")
    return found


def short(paths: Sequence[str]) -> list[str]:
    """The ends of paths that tell them apart, without a suffix that all have."""
    found = list(distinct_paths([str(path) for path in paths]))
    suffixes = {PurePath(name).suffix for name in found}
    bare = [name.removesuffix(next(iter(suffixes))) for name in found] if len(suffixes) == 1 else found
    return bare if len(set(bare)) == len(bare) and all(bare) else found


def pairs(count: int) -> Iterator[tuple[int, int]]:
    """Every pair of so many."""
    return itertools.combinations(range(count), 2)
