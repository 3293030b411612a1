"""Every kernel against integers of numpy, and against the others to the bit."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from penstock.hooks.problems import ProblemError
from penstock.quant158 import native
from penstock.quant158.kernel import PackedMatrix

pytestmark = pytest.mark.skipif(not native.built(), reason="built without a compiler")

WIDEST_GROUP = 32768  # of the kernels; a row's scale serves several of them
LIMIT = {1: 127, 2: 32512}
every_kernel = pytest.mark.parametrize("name", ["portable", "avx2", "avx512vnni", "neon"])


def kernel_or_skip(name: str) -> native.Kernel:
    if name not in native.supported():
        pytest.skip(f"this machine cannot run the kernel {name}")
    return native.kernel(name)


def packed(trit: NDArray[np.int64]) -> NDArray[np.uint8]:
    digits = np.concatenate([trit.ravel() + 1, np.ones(-trit.size % 5, np.int64)]).reshape(-1, 5)
    return (digits @ np.array([1, 3, 9, 27, 81])).astype(np.uint8)


def quantized(x: NDArray[np.float32], planes: int) -> tuple[NDArray[np.int64], np.float32]:
    """The definition, one vector."""
    most, limit = np.float32(np.abs(x).max()), np.float32(LIMIT[planes])
    if most < 1e-30:
        return np.zeros(len(x), np.int64), np.float32(0)
    q = np.rint(x * (limit / most)).clip(-limit, limit)
    return q.astype(np.int64), most / limit


def expected(
    trit: NDArray[np.int64], scale: NDArray[np.float16], x: NDArray[np.float32], planes: int, group: int
) -> NDArray[np.float32]:
    """[n, out]: integers of 64 bits a group, then the kernels' order of float operations."""
    rows, columns = trit.shape
    result = np.empty((len(x), rows), np.float32)
    for each, out in zip(x, result, strict=True):
        q, by = quantized(each, planes)
        total = np.zeros(rows, np.float32)
        for start in range(0, columns, min(group, WIDEST_GROUP)):
            part = slice(start, min(start + min(group, WIDEST_GROUP), columns))
            sums = trit[:, part] @ q[part]
            assert np.abs(sums).max() < 2**31
            column = start // group if scale.shape[1] > 1 else 0
            total += np.broadcast_to(scale[:, column].astype(np.float32), rows) * sums.astype(np.float32)
        out[:] = total * by
    return result


def scales_of(rng: np.random.Generator, rows: int, columns: int, group: int) -> NDArray[np.float16]:
    """Of one group: 0 stands for the row, -1 for the matrix."""
    count = -(-columns // group) if group > 0 else 1
    return rng.uniform(2**-14, 2, (1 if group < 0 else rows, count)).astype(np.float16)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 70),
    columns=st.integers(1, 700),
    group=st.sampled_from([-1, 0, 64, 128, 256]),
    planes=st.sampled_from([1, 2]),
    count=st.integers(1, 17),
    seed=st.integers(0, 2**32 - 1),
    extreme=st.booleans(),
)
def test_every_kernel_and_number_of_threads_gives_the_definitions_bits(
    rows: int, columns: int, group: int, planes: int, count: int, seed: int, extreme: bool
) -> None:
    rng = np.random.default_rng(seed)
    trit = rng.integers(-1, 2, (rows, columns))
    scale = scales_of(rng, rows, columns, group)
    x = rng.normal(size=(count, columns)).astype(np.float32)
    if extreme:
        x = np.sign(x) * rng.choice(np.array([127, 32512], np.float32), size=(count, 1))
    result = expected(trit, scale, x, planes, group if group > 0 else columns)
    matrix = PackedMatrix(packed(trit), scale, (rows, columns), threads=1 + seed % 3)
    for name in native.supported():
        for threads in (1, 2, 5):
            found = matrix.matmul(x, planes=planes, threads=threads, with_kernel=native.kernel(name))
            assert np.array_equal(found, result), (name, threads)


@every_kernel
@pytest.mark.parametrize("planes", [1, 2])
@pytest.mark.parametrize("columns", [1, 16, 255, 256, 257, 4096, WIDEST_GROUP, 100_001])
@pytest.mark.parametrize("weight", [1, -1])
def test_saturated_activations_against_rows_of_ones_do_not_overflow(
    name: str, planes: int, columns: int, weight: int
) -> None:
    kernel = kernel_or_skip(name)
    trit = np.full((3, columns), weight)
    limit = LIMIT[planes]
    # 128 is a high plane of 1 and a low one of -128, the most negative that there is
    small = 128 if planes == 2 else -1
    rows = [[limit] * columns, [-limit] * columns, [limit] + [small] * (columns - 1)]
    x = np.array(rows, np.float32)
    scale = np.ones((3, 1), np.float16)
    found = PackedMatrix(packed(trit), scale, trit.shape).matmul(x, planes=planes, with_kernel=kernel)
    assert np.array_equal(found, expected(trit, scale, x, planes, columns))


@every_kernel
@pytest.mark.parametrize("planes", [1, 2])
def test_products_with_n_vectors_are_those_with_each(name: str, planes: int) -> None:
    kernel = kernel_or_skip(name)
    rng = np.random.default_rng(0)
    trit, scale = rng.integers(-1, 2, (100, 333)), scales_of(rng, 100, 333, 128)
    x = rng.normal(size=(31, 333)).astype(np.float32)
    matrix = PackedMatrix(packed(trit), scale, (100, 333))
    together = matrix.matmul(x, planes=planes, with_kernel=kernel)
    alone = [matrix.matvec(each, planes=planes, with_kernel=kernel) for each in x]
    assert np.array_equal(together, np.stack(alone))


@every_kernel
@pytest.mark.parametrize("planes", [1, 2])
def test_activations_are_quantized_as_in_training(name: str, planes: int) -> None:
    kernel = kernel_or_skip(name)
    rng = np.random.default_rng(1)
    ties = np.array([LIMIT[planes], 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 3.49, 0, -LIMIT[planes]], np.float32)
    for x in (ties, rng.standard_cauchy(200).astype(np.float32), rng.normal(0, 1e-29, 77).astype(np.float32)):
        identity = PackedMatrix(packed(np.eye(len(x), dtype=np.int64)), np.ones((1, 1), np.float16), (len(x), len(x)))
        q, by = quantized(x, planes)
        assert np.array_equal(identity.matvec(x, planes=planes, with_kernel=kernel), q.astype(np.float32) * by)


@every_kernel
@pytest.mark.parametrize("planes", [1, 2])
def test_zeros_give_zeros_and_what_is_not_finite_spoils_its_own_row_alone(name: str, planes: int) -> None:
    kernel = kernel_or_skip(name)
    matrix = PackedMatrix(packed(np.ones((20, 50), np.int64)), np.ones((1, 1), np.float16), (20, 50))
    x = np.ones((6, 50), np.float32)
    x[0], x[1], x[2, 7], x[3, 49], x[4, 0] = 0, 1e-31, np.nan, np.inf, -np.inf
    found = matrix.matmul(x, planes=planes, with_kernel=kernel)
    assert not found[:2].any()
    assert np.isnan(found[2:5]).all()
    assert np.allclose(found[5], 50)


def test_an_expert_of_a_stack_starts_anywhere_in_the_stream() -> None:
    rng = np.random.default_rng(2)
    stack = rng.integers(-1, 2, (7, 9, 13))
    codes, x = packed(stack), rng.normal(size=13).astype(np.float32)
    scale = np.ones((9, 1), np.float16)
    for number, expert in enumerate(stack):
        matrix = PackedMatrix(codes, scale, (9, 13), first_trit=number * 9 * 13)
        assert np.array_equal(matrix.matvec(x), expected(expert, scale, x[None], 1, 13)[0])


def test_memory_takes_two_bits_a_weight_and_two_bytes_a_scale() -> None:
    matrix = PackedMatrix(packed(np.zeros((32, 256), np.int64)), np.ones((32, 2), np.float16), (32, 256))
    assert matrix.nbytes == 32 * 256 // 4 + 2 * 32 * 2


@pytest.mark.parametrize("scale", [0.0, -1.0, 2**-15, np.inf, -np.inf, np.nan, -0.0])
def test_a_scale_that_is_not_normal_and_positive_is_refused(scale: float) -> None:
    scales = np.ones((3, 1), np.float16)
    scales[2] = scale
    with pytest.raises(ProblemError, match="scale"):
        PackedMatrix(packed(np.zeros((3, 4), np.int64)), scales, (3, 4))


@pytest.mark.parametrize("code", [243, 255])
def test_a_code_that_is_no_trits_is_refused(code: int) -> None:
    codes = packed(np.zeros((3, 40), np.int64))
    codes[-1] = code
    with pytest.raises(ProblemError, match="above 242"):
        PackedMatrix(codes, np.ones((1, 1), np.float16), (3, 40))


@pytest.mark.parametrize(
    ("codes", "scale", "shape", "first_trit"),
    [
        (np.zeros(2, np.uint8), np.ones((2, 1), np.float16), (2, 6), 0),
        (np.zeros(3, np.uint8), np.ones((2, 1), np.float16), (2, 6), 4),
        (np.zeros(3, np.uint8), np.ones((2, 1), np.float16), (2, 6), -1),
        (np.zeros(3, np.int8), np.ones((2, 1), np.float16), (2, 6), 0),
        (np.zeros(3, np.uint8), np.ones((2, 2), np.float16), (2, 6), 0),
        (np.zeros(3, np.uint8), np.ones((2, 1), np.float32), (2, 6), 0),
        (np.zeros(3, np.uint8), np.ones((0, 1), np.float16), (0, 6), 0),
    ],
)
def test_arrays_that_do_not_fit_the_shape_are_refused(codes, scale, shape, first_trit) -> None:
    with pytest.raises(ProblemError, match=r"do not hold|do not fit|no weights"):
        PackedMatrix(codes, scale, shape, first_trit=first_trit)


def test_products_need_no_torch() -> None:
    program = """
import sys
import numpy as np
from penstock.quant158.kernel import PackedMatrix
matrix = PackedMatrix(np.full(1, 121, np.uint8), np.ones((1, 1), np.float16), (1, 5))
assert not matrix.matvec(np.ones(5, np.float32)).any()
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)
