import ctypes
from pathlib import Path

import gguf.constants
import llama_cpp
import pytest

from vram_llm.model.quants import KV_TYPES, RETIRED, TYPES, quantization_name, row_bytes

Q8_1 = 9  # gguf 0.19 says 40 bytes a block where ggml has 36; files never hold it


def test_the_table_is_ggmls_own() -> None:
    ggml = ctypes.CDLL(str(next((Path(llama_cpp.__file__).parent / "lib").glob("libggml-base.*"))))
    ggml.ggml_type_size.restype = ctypes.c_size_t
    ggml.ggml_blck_size.restype = ctypes.c_int64
    ggml.ggml_type_name.restype = ctypes.c_char_p
    n_types = max(TYPES) + 1
    theirs = {i: (ggml.ggml_blck_size(i), ggml.ggml_type_size(i)) for i in range(n_types)}
    ours = {i: (t.block, t.block_bytes) for i, t in TYPES.items()}
    assert ours == {i: size for i, size in theirs.items() if size[0]}
    assert all(ggml.ggml_type_name(i).decode().upper() == t.name for i, t in TYPES.items())
    assert set(RETIRED) == {i for i, size in theirs.items() if not size[0]}


def test_the_table_agrees_with_the_gguf_package() -> None:
    for theirs, size in gguf.constants.GGML_QUANT_SIZES.items():
        ours = TYPES[theirs]
        assert ours.name == theirs.name
        assert theirs == Q8_1 or size == (ours.block, ours.block_bytes)


@pytest.mark.parametrize(
    ("name", "n_elements", "n_bytes"),
    [("f16", 1024, 2048), ("q8_0", 1024, 1088), ("q4_0", 64, 36), ("iq4_nl", 32, 18), ("f32", 0, 0)],
)
def test_row_bytes(name: str, n_elements: int, n_bytes: int) -> None:
    assert row_bytes(KV_TYPES[name], n_elements) == n_bytes


def test_a_row_must_be_whole_blocks() -> None:
    with pytest.raises(ValueError, match="33 is not a multiple of Q8_0's block of 32"):
        row_bytes(KV_TYPES["q8_0"], 33)


def test_kv_types_are_those_llama_cpp_takes() -> None:
    assert set(KV_TYPES) == {"f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1"}


@pytest.mark.parametrize(
    ("file_type", "elements", "name"),
    [
        (7, {"Q8_0": 100, "F32": 1}, "Q8_0"),
        (15, {"Q4_K": 80, "Q6_K": 20}, "Q4_K_M"),
        (15, {"Q5_0": 90, "Q4_K": 5}, "Q4_K_M"),  # rows too short for K quants in most of the model
        (22, {"IQ3_XXS": 50, "IQ3_S": 50}, "IQ3_XS"),
        (38, {"MXFP4": 90, "Q8_0": 10}, "MXFP4_MOE"),
        (15, {"F16": 99, "F32": 1}, "F16"),  # the file says what is not so
        (None, {"Q6_K": 5, "Q4_0": 9}, "Q4_0"),
        (999, {"Q6_K": 5}, "Q6_K"),
        (None, {}, "unknown"),
    ],
)
def test_quantization_name(file_type: int | None, elements: dict[str, int], name: str) -> None:
    assert quantization_name(file_type, elements) == name
