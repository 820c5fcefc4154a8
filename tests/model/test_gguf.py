import struct
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import zoo
from vram_llm.errors import CorruptHeader, ModelFileError, TruncatedFile, VramLLMError
from vram_llm.model import gguf
from vram_llm.model.gguf import KEPT_ELEMENTS, GgufFile, SkippedArray, parse


def one_tensor(shape: tuple[int, ...] = (32,), type_id: int = 0, name: str = "t", offset: int = 0) -> bytes:
    dims = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return zoo.text(name) + dims + struct.pack("<IQ", type_id, offset)


def file(
    metadata: dict[str, object] | None = None, *tensors: bytes, data: int = 4096, version: int = 3
) -> bytes:
    """A GGUF with these tensor entries and so many bytes after the header."""
    keys = b"".join(zoo.text(key) + zoo.metadata_value(value) for key, value in (metadata or {}).items())
    head = (
        struct.pack("<4sIQQ", b"GGUF", version, len(tensors), len(metadata or {})) + keys + b"".join(tensors)
    )
    return head.ljust(-(-len(head) // 32) * 32, b"\0") + bytes(data)


def read(raw: bytes) -> GgufFile:
    return parse(raw, len(raw), "m.gguf")


def small_model() -> bytes:
    model = zoo.llama(2, 64, 4, 2, 128, 96)
    model.metadata["tokenizer.ggml.tokens"] = [f"token{i}" for i in range(96)]
    raw, data = zoo.header_bytes(model, zoo.metadata_of(model, "Q8_0"), list(model.tensors), "Q8_0")
    return raw + bytes(data)


SMALL = small_model()


def test_reads_every_kind_of_value() -> None:
    metadata: dict[str, object] = {
        "number": 7, "flag": True, "real": 0.5, "text": "grüße", "numbers": [-1, 2], "flags": [True, False],
        "short": zoo.Exact("H", 3), "long": zoo.Exact("Q", 2**40),
    }  # fmt: skip
    expected = {**metadata, "numbers": (-1, 2), "flags": (True, False), "short": 3, "long": 2**40}
    assert read(file(metadata)).metadata == expected


@pytest.mark.parametrize("version", [2, 3])
def test_reads_both_versions(version: int) -> None:
    assert read(file({"a": 1}, version=version)).version == version


def test_counts_arrays_of_strings_and_long_ones_and_reads_on() -> None:
    words = ["", "a", "längeres"] * 50
    metadata: dict[str, object] = {"words": words, "many": list(range(KEPT_ELEMENTS + 1)), "after": 5}
    assert read(file(metadata)).metadata == {
        "words": SkippedArray(150, of_strings=True),
        "many": SkippedArray(KEPT_ELEMENTS + 1, of_strings=False),
        "after": 5,
    }


def test_lists_tensors_in_ggmls_order_of_dimensions() -> None:
    found = read(file(None, one_tensor((256, 3, 2), 12, "w"), one_tensor(name="b", offset=864))).tensors
    assert [(t.name, t.shape, t.type.name, t.n_bytes, t.n_elements) for t in found] == [
        ("w", (256, 3, 2), "Q4_K", 864, 1536),
        ("b", (32,), "F32", 128, 32),
    ]


def test_alignment_moves_the_data() -> None:
    raw = file({"general.alignment": 256}, one_tensor(), data=4096)
    assert read(raw).data_offset == 256


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"\x00\x01\x00\x00\x00\x00\x00\x00{" + bytes(64), "safetensors"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"  <html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"PK\x03\x04....", "zip or PyTorch"),
        (b"tjgg" + bytes(20), "older than GGUF"),
        (b"\x1f\x8b\x08", "gzip"),
        (bytes(64), "has not finished"),
        (b'{"error": 1}', "JSON"),
        (b"hello there", "b'hell'"),
        (b"GGUF" + struct.pack(">I", 3) + bytes(16), "big-endian"),
        (b"GGUF" + struct.pack("<I", 1) + bytes(16), "version 1"),
        (b"GGUF" + struct.pack("<I", 4) + bytes(16), "version 4"),
    ],
)
def test_says_what_is_not_a_gguf(raw: bytes, says: str) -> None:
    with pytest.raises(ModelFileError, match=says) as caught:
        read(raw)
    assert caught.value.exit_code == 11


@pytest.mark.parametrize("length", [1, 3, 4, 10, 23, 24, 30, 200, 400])
def test_a_header_cut_short(length: int) -> None:
    with pytest.raises(TruncatedFile, match="cut short"):
        read(SMALL[:length])


def test_tensor_data_cut_short_says_by_how_much() -> None:
    raw = file(None, one_tensor((32, 10)), data=1000)
    with pytest.raises(TruncatedFile, match="280 bytes of its tensor data are missing"):
        read(raw)


def test_the_padding_after_the_last_tensor_may_be_missing() -> None:
    assert read(file(None, one_tensor((3,)), data=12)).tensors[0].n_bytes == 12


HUGE = struct.pack("<Q", 2**62)
ONE_KEY = b"GGUF" + struct.pack("<IQQ", 3, 0, 1)
KEY_K = ONE_KEY + zoo.text("k")
LARGE_STRINGS = struct.pack("<IIQ", 9, 8, 2) + HUGE


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"GGUF" + struct.pack("<IQQ", 3, 2**40, 0), "1,099,511,627,776 tensors"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**63), "metadata keys"),
        (ONE_KEY + HUGE + bytes(64), "metadata key of"),
        (
            KEY_K + struct.pack("<I", 8) + HUGE,
            "value of k of",
        ),
        (
            KEY_K + struct.pack("<II", 9, 4) + HUGE,
            "elements in k",
        ),
        (
            KEY_K + struct.pack("<II", 9, 8) + HUGE,
            "strings in k",
        ),
        (KEY_K + LARGE_STRINGS + bytes(64), "string in k"),
        (
            KEY_K + struct.pack("<I", 77) + bytes(9),
            "type 77",
        ),
        (
            KEY_K + struct.pack("<IIQ", 9, 9, 1),
            "array k of type 9",
        ),
        (
            ONE_KEY + zoo.text("") + struct.pack("<II", 4, 1),
            "empty metadata key",
        ),
        (
            b"GGUF" + struct.pack("<IQQ", 3, 0, 2) + (zoo.text("k") + struct.pack("<II", 4, 1)) * 2,
            "'k' twice",
        ),
        (file({"general.alignment": 24}), "power of two"),
        (file({"general.alignment": "x"}), "power of two"),
        (file(None, one_tensor(type_id=99)), "unknown \\(99\\)"),
        (file(None, one_tensor(type_id=4)), "Q4_2, which ggml no longer reads"),
        (file(None, one_tensor((33,), 8)), "rows of 33, not a multiple of Q8_0's 32"),
        (file(None, one_tensor((1, 1, 1, 1, 1))), "5 dimensions"),
        (file(None, one_tensor((2**62, 2**62))), "more than any machine"),
        (file(None, one_tensor((2**63, 0))), "more than any machine"),
        (file(None, one_tensor(name="")), "no name"),
        (file(None, one_tensor(name="t\x1b[2J")), r"tensor name with control characters: 't\\x1b"),
        (file({"general.\nname": 1}), r"metadata key with control characters: 'general.\\nname'"),
        (file(None, one_tensor(name="n" * 64)), "tensor name of 64 bytes"),
        (file(None, one_tensor(), one_tensor(offset=128)), "'t' twice"),
        (file(None, one_tensor(offset=32)), "byte 32 of its data where 0 is next"),
    ],
)
def test_absurd_headers(raw: bytes, says: str) -> None:
    with pytest.raises(CorruptHeader, match=says):
        read(raw)


def many_keys(n: int, value: bytes) -> bytes:
    keys = b"".join(zoo.text(f"key{i}") + value for i in range(n))
    return b"GGUF" + struct.pack("<IQQ", 3, 0, n) + keys


def test_arrays_that_are_counted_are_not_kept() -> None:
    numbers = struct.pack("<IIQ", 9, 10, 2**18) + bytes(2**21)
    strings = struct.pack("<IIQ", 9, 8, 300) + zoo.text("x" * 4096) * 300
    for data in (many_keys(20, numbers), many_keys(20, strings)):
        found = read(data)  # once before: coverage takes memory for lines that run often
        tracemalloc.start()
        read(data)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert (found.raw, peak < 2**20) == ({}, True)


def test_what_is_kept_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    text = struct.pack("<I", 8) + zoo.text("x" * 2**20)
    with pytest.raises(CorruptHeader, match="more than 8,388,608 bytes of metadata without its vocabulary"):
        read(many_keys(20, text))
    short_arrays = struct.pack("<IIQ", 9, 2, 4096) + bytes(8192)
    kept = [type(value) for value in read(many_keys(100, short_arrays)).metadata.values()]
    assert kept == [tuple] * 64 + [SkippedArray] * 36
    monkeypatch.setattr(gguf, "MAX_STRINGS", 1000)
    with pytest.raises(CorruptHeader, match="1,200 strings up to key1"):
        read(many_keys(2, struct.pack("<IIQ", 9, 8, 600) + bytes(4800)))


def survives(raw: bytes) -> None:
    """Reading either works or ends in a sentence, and never takes memory the header merely claims."""
    said = "m.gguf"
    tracemalloc.start()
    try:
        read(raw)
    except VramLLMError as error:
        said = str(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert said.startswith("m.gguf")
    assert peak < 2**20


@given(st.integers(0, len(SMALL)))
def test_any_truncation_is_an_error_or_a_header(length: int) -> None:
    survives(SMALL[:length])


@given(st.lists(st.tuples(st.integers(0, 2500), st.integers(0, 255)), min_size=1, max_size=8))
def test_any_damage_is_an_error_or_a_header(damage: list[tuple[int, int]]) -> None:
    raw = bytearray(SMALL)
    for at, byte in damage:
        raw[at % len(raw)] = byte
    survives(bytes(raw))


@given(st.integers(0, 2500), st.binary(min_size=8, max_size=8))
def test_any_length_is_an_error_or_a_header(at: int, length: bytes) -> None:
    survives(SMALL[:at] + length + SMALL[at + 8 :])
