from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerscope.numerics import matrices
from layerscope.numerics.matrices import dimensions, take, unfold
from layerscope.records.layers import LayerRef, Part


def ref(shape: tuple[int, ...], axes: str, groups: int = 1, part: Part | None = None) -> LayerRef:
    return LayerRef(0, "w", shape, axes, "float64", "dense", groups=groups, part=part)


CASES = [
    ((5, 3), "oi", 1, (1, 5, 3)),
    ((3, 5), "oi", 1, (1, 5, 3)),
    ((3, 5), "io", 1, (1, 5, 3)),
    ((4, 2, 3, 3), "oihw", 1, (9, 4, 2)),
    ((3, 3, 4, 2), "hwio", 1, (9, 4, 2)),
    ((6, 2, 3), "oiw", 3, (9, 2, 2)),
    ((8, 1, 3, 3), "oihw", 8, (72, 1, 1)),
    ((7, 5, 3), "eoi", 1, (7, 5, 3)),
    ((4, 2, 2, 3, 3), "oidhw", 1, (18, 4, 2)),
]


@pytest.mark.parametrize(("shape", "axes", "groups", "expected"), CASES)
def test_dimensions_agree_with_the_stack(
    shape: tuple[int, ...], axes: str, groups: int, expected: tuple[int, ...]
) -> None:
    tensor = np.arange(np.prod(shape), dtype=float).reshape(shape)
    assert unfold(tensor, ref(shape, axes, groups)).shape == expected
    assert dimensions(ref(shape, axes, groups)) == expected
    flat = unfold(tensor, ref(shape, axes, groups), "flat")
    assert dimensions(ref(shape, axes, groups), "flat") == flat.shape


def test_each_kernel_position_is_its_own_matrix(rng: np.random.Generator) -> None:
    w = rng.standard_normal((6, 4, 3, 2))
    stack = unfold(w, ref(w.shape, "oihw"))
    np.testing.assert_array_equal(stack[1 * 2 + 1], w[:, :, 1, 1])


def test_flat_is_out_by_everything_else(rng: np.random.Generator) -> None:
    w = rng.standard_normal((4, 6, 3, 3))
    np.testing.assert_array_equal(unfold(w, ref(w.shape, "oihw"), "flat")[0], w.reshape(4, -1).T)


def test_groups_are_separated(rng: np.random.Generator) -> None:
    w = rng.standard_normal((6, 2, 1, 1))
    stack = unfold(w, ref(w.shape, "oihw", groups=2))
    np.testing.assert_array_equal(stack[0], w[:3, :, 0, 0])
    np.testing.assert_array_equal(stack[1], w[3:, :, 0, 0])


def test_keras_and_torch_order_give_the_same_matrices(rng: np.random.Generator) -> None:
    w = rng.standard_normal((5, 4, 3, 3))
    keras = w.transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(unfold(w, ref(w.shape, "oihw")), unfold(keras, ref(keras.shape, "hwio")))


def test_parts_take_contiguous_and_interleaved_rows() -> None:
    w = np.arange(24.0).reshape(12, 2)
    np.testing.assert_array_equal(take(w, Part(0, 4, 4, 12)), w[4:8])
    np.testing.assert_array_equal(take(w, Part(0, 1, 1, 3)), w[1::3])
    np.testing.assert_array_equal(take(w.T, Part(1, 0, 2, 6)), w.T[:, [0, 1, 6, 7]])


def test_data_that_disagrees_with_its_header_is_an_error() -> None:
    with pytest.raises(ValueError, match="the header states"):
        unfold(np.zeros((2, 3)), ref((3, 2), "oi"))


@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 3), st.integers(1, 3))
def test_unfolding_keeps_every_entry(o: int, i: int, h: int, w: int) -> None:
    tensor = np.arange(float(o * i * h * w)).reshape(o, i, h, w)
    stack = unfold(tensor, ref(tensor.shape, "oihw"))
    assert stack.shape[1] >= stack.shape[2]
    assert sorted(stack.ravel()) == sorted(tensor.ravel())


@pytest.mark.parametrize("conv", ["slices", "flat"])
@pytest.mark.parametrize(
    ("shape", "axes", "groups"),
    [((6, 4), "oi", 1), ((4, 6), "io", 1), ((8, 4), "oi", 4), ((6, 4, 3, 2), "oihw", 1), ((6, 2, 3), "oiw", 3),
     ((2, 3, 5, 4), "hwio", 1), ((3, 6, 4), "eoi", 1), ((4, 6, 2, 2), "iohw", 1)],
)  # fmt: skip
def test_folding_and_locating_undo_unfolding(conv: str, shape: tuple[int, ...], axes: str, groups: int) -> None:
    for flipped in (False, True)[: 1 + (axes == "oiw")]:
        check_folding(conv, LayerRef(0, "w", shape, axes, "float64", "", groups=groups, flipped=flipped))


def check_folding(conv: str, ref: LayerRef) -> None:
    tensor = np.arange(np.prod(ref.shape), dtype=float).reshape(ref.shape)
    stack = matrices.unfold(tensor, ref, conv)
    assert (matrices.fold(stack, ref, conv) == tensor).all()
    for place in np.ndindex(stack.shape):
        assert tensor[matrices.locate(ref, conv, *place)] == stack[place]
    for i in range(len(stack)):
        one = replace(ref, slice=i)
        assert (matrices.unfold(tensor, one, conv) == stack[i : i + 1]).all()
        assert matrices.dimensions(one, conv) == stack[i : i + 1].shape
        assert tensor[matrices.locate(one, conv, 0, 1, 0)] == stack[i, 1, 0]


def test_putting_undoes_taking(rng: np.random.Generator) -> None:
    tensor = rng.standard_normal((12, 5)).astype(np.float32)
    ref = LayerRef(0, "w", (4, 5), "oi", "float32", "dense", part=Part(0, 2, 2, 6))
    taken = matrices.pick(tensor, ref)
    assert (matrices.put(tensor.copy(), ref, taken) == tensor).all()
    changed = matrices.put(tensor.copy(), ref, taken + 1)
    assert (changed - tensor).sum() == pytest.approx(taken.size, rel=1e-6)
    assert changed.dtype == np.float32


def test_windows_are_evenly_spaced_and_none_is_taken_twice() -> None:
    stack = np.arange(60.0 * 40).reshape(1, 60, 40)
    assert matrices.windows(stack, 10).shape == (100, 20, 10)
    assert matrices.windows(stack, 20).shape == (100, 40, 20)
    few = matrices.windows(stack[:, :22, :11], 10)
    assert few.shape == (3 * 2, 20, 10)
    assert (few[0] == stack[0, :20, :10]).all()
    assert (few[-1] == stack[0, 2:22, 1:11]).all()
