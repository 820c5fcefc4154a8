"""ggml's tensor types and their sizes.

The table is ggml's `type_traits` (ggml/src/ggml.c) in llama-cpp-python 0.3.36; the names are those of
`enum ggml_type` in ggml.h. It is copied here because importing gguf takes longer than reading a header.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GgmlType:
    """One way to store numbers: `block_bytes` bytes hold `block` elements of a row."""

    id: int
    name: str
    block: int
    block_bytes: int

    @property
    def is_quantized(self) -> bool:
        """True if several elements share a block (ggml_is_quantized)."""
        return self.block > 1


TYPES: dict[int, GgmlType] = {
    row[0]: GgmlType(*row)
    for row in (
        (0, "F32", 1, 4),
        (1, "F16", 1, 2),
        (2, "Q4_0", 32, 18),
        (3, "Q4_1", 32, 20),
        (6, "Q5_0", 32, 22),
        (7, "Q5_1", 32, 24),
        (8, "Q8_0", 32, 34),
        (9, "Q8_1", 32, 36),
        (10, "Q2_K", 256, 84),
        (11, "Q3_K", 256, 110),
        (12, "Q4_K", 256, 144),
        (13, "Q5_K", 256, 176),
        (14, "Q6_K", 256, 210),
        (15, "Q8_K", 256, 292),
        (16, "IQ2_XXS", 256, 66),
        (17, "IQ2_XS", 256, 74),
        (18, "IQ3_XXS", 256, 98),
        (19, "IQ1_S", 256, 50),
        (20, "IQ4_NL", 32, 18),
        (21, "IQ3_S", 256, 110),
        (22, "IQ2_S", 256, 82),
        (23, "IQ4_XS", 256, 136),
        (24, "I8", 1, 1),
        (25, "I16", 1, 2),
        (26, "I32", 1, 4),
        (27, "I64", 1, 8),
        (28, "F64", 1, 8),
        (29, "IQ1_M", 256, 56),
        (30, "BF16", 1, 2),
        (34, "TQ1_0", 256, 54),
        (35, "TQ2_0", 256, 66),
        (39, "MXFP4", 32, 17),
        (40, "NVFP4", 64, 36),
        (41, "Q1_0", 128, 18),
        (42, "Q2_0", 64, 18),
    )
}

RETIRED = {
    4: "Q4_2", 5: "Q4_3", 31: "Q4_0_4_4", 32: "Q4_0_4_8", 33: "Q4_0_8_8",
    36: "IQ4_NL_4_4", 37: "IQ4_NL_4_8", 38: "IQ4_NL_8_8",
}  # fmt: skip
"""Type ids that ggml had once and no longer reads."""

KV_TYPES: dict[str, GgmlType] = {
    t.name.lower(): t for i, t in TYPES.items() if i in {0, 1, 30, 8, 2, 3, 20, 6, 7}
}
"""Types that a KV cache can have, by their names on the command line (common/arg.cpp, kv_cache_types)."""

# enum llama_ftype of llama.h, without its LLAMA_FTYPE_MOSTLY_ prefix.
_FILE_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S",
    12: "Q3_K_M", 13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K",
    19: "IQ2_XXS", 20: "IQ2_XS", 21: "Q2_K_S", 22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL",
    26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S", 29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16", 36: "TQ1_0",
    37: "TQ2_0", 38: "MXFP4_MOE", 39: "NVFP4", 40: "Q1_0", 41: "Q2_0",
}  # fmt: skip


def row_bytes(ggml_type: GgmlType, n_elements: int) -> int:
    """Bytes of a row of `n_elements`, a multiple of the type's block (ggml_row_size). Raises ValueError."""
    blocks, rest = divmod(n_elements, ggml_type.block)
    if rest:
        raise ValueError(
            f"a row of {n_elements} is not a multiple of {ggml_type.name}'s block of {ggml_type.block}"
        )
    return blocks * ggml_type.block_bytes


def quantization_name(file_type: int | None, elements: dict[str, int]) -> str:
    """The usual name of a file's quantisation: "Q8_0", "Q4_K_M", "MXFP4_MOE".

    `file_type` is general.file_type, `elements` the number of elements stored in each type. The file type
    counts if some tensor is of the family that it names (Q4, IQ3, ...); otherwise the name is that of the
    type with most elements.
    """
    name = _FILE_TYPES.get(-1 if file_type is None else file_type)
    if name is not None and name.split("_")[0] in {stored.split("_")[0] for stored in elements}:
        return name
    return max(elements, key=lambda stored: elements[stored], default="unknown")
