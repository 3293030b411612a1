"""Laws of the storage plan: every parameter is listed once, with the bytes of its format."""

from __future__ import annotations

from typing import Any

from penstock.hooks.contracts import ParameterLayout, ParameterRole, StoragePlan, StoredTensor


class HalfAByte:
    """Two numbers a byte, and one byte a matrix."""

    roles = frozenset({ParameterRole.EXPERT, ParameterRole.MATRIX})
    format = "half"

    def site(self, shape: tuple[int, ...], role: ParameterRole) -> Any:
        raise AssertionError("a plan builds no modules")

    def packed_bytes(self, shape: tuple[int, ...]) -> int:
        *leading, rows, columns = shape
        matrices = 1
        for size in leading:
            matrices *= size
        return matrices * (rows * columns // 2 + 1)


ROLES = {
    "embedding": ParameterRole.EMBEDDING,
    "mlp": ParameterRole.MATRIX,
    "experts": ParameterRole.EXPERT,
    "qkv": ParameterRole.HEAD,
    "norm": ParameterRole.NORM,
}
SHAPES = {"experts": (3, 8, 4), "mlp": (4, 6), "embedding": (10, 4), "qkv": (12, 4), "norm": (4,)}
LAYOUTS = {
    "experts": ParameterLayout((("gate", 2), ("up", 6))),
    "mlp": ParameterLayout(transposed=True),
    "qkv": ParameterLayout((("q", 4), ("kv", 8))),
}


def test_each_matrix_is_stored_as_its_role_says_and_the_rest_as_fp32():
    entries = StoragePlan.of(HalfAByte()).entries(ROLES, SHAPES, LAYOUTS)
    assert entries == [
        StoredTensor("experts:gate", "experts", "half", (3, 2, 4), 3 * 5),
        StoredTensor("experts:up", "experts", "half", (3, 6, 4), 3 * 13),
        StoredTensor("mlp", "mlp", "half", (6, 4), 13),
        StoredTensor("embedding", "embedding", "fp32", (10, 4), 160),
        StoredTensor("qkv:q", "qkv", "fp32", (4, 4), 64),
        StoredTensor("qkv:kv", "qkv", "fp32", (8, 4), 128),
        StoredTensor("norm", "norm", "fp32", (4,), 16),
    ]


def test_a_quantizer_without_a_named_format_is_called_by_its_class():
    class Old:
        roles = frozenset({ParameterRole.MATRIX})

        def fake_quantize(self, weight: Any) -> Any:
            return weight

        def packed_bytes(self, shape: tuple[int, ...]) -> int:
            return 1

    (entry,) = StoragePlan.of(Old()).entries(ROLES, {"mlp": (4, 6)})
    assert (entry.format, entry.bytes) == ("Old", 1)


def test_without_a_quantizer_everything_is_fp32():
    assert {entry.format for entry in StoragePlan().entries(ROLES, SHAPES)} == {"fp32"}
