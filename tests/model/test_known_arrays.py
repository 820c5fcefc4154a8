"""The vocabulary of a model is read once for all its quantisations, and a damaged file is still found."""

import dataclasses
from pathlib import Path

import pytest

from tests import zoo
from tests.model.range_server import RangeServer
from vram_llm.errors import CorruptHeader, TruncatedFile
from vram_llm.model.header import Header, read_local_header
from vram_llm.model.http_client import HttpClient, HubEndpoint
from vram_llm.model.known_arrays import ArrayStart, KnownArrays
from vram_llm.model.location import RemoteFile
from vram_llm.model.remote import read_header_at

N_TOKENS = 40_000


def with_vocabulary(mark: str = "") -> zoo.Model:
    """A llama with a vocabulary of a megabyte; `mark` is in its last token."""
    tokens = [f"a token of the vocabulary {i}" for i in range(N_TOKENS - 1)] + [f"the last {mark}"]
    return dataclasses.replace(
        zoo.llama(2),
        metadata={
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.token_type": [1] * N_TOKENS,
            "tokenizer.ggml.merges": [f"{i} {i}" for i in range(N_TOKENS)],
            "general.name": "Tiny",
        },
    )


def same(header: Header, other: Header) -> bool:
    return (header.metadata, header.tensors) == (other.metadata, other.tensors)


def test_a_vocabulary_is_fetched_once(server: RangeServer, models: Path) -> None:
    for quant in ("Q8_0", "Q4_0"):
        zoo.write(with_vocabulary(), models / f"{quant}.gguf", quant)
    url = server.serve_folder(models)
    known = KnownArrays()
    with HttpClient(HubEndpoint(url, None)) as client:
        read_header_at(RemoteFile.at(f"{url}Q8_0.gguf"), client, known)
        assert server.sent_bytes > 2_000_000
        server.sent_bytes = 0
        header = read_header_at(RemoteFile.at(f"{url}Q4_0.gguf"), client, known)
    assert server.sent_bytes <= 4 * 65_536
    assert same(header, read_local_header(models / "Q4_0.gguf"))
    server.sent_bytes = 0
    with HttpClient(HubEndpoint(url, None)) as client:
        again = read_header_at(RemoteFile.at(f"{url}Q4_0.gguf"), client)
    assert (same(again, header), server.sent_bytes) == (True, 0)  # it is in the cache of headers


def test_another_vocabulary_is_read_whole(models: Path) -> None:
    known = KnownArrays()
    for mark in ("a", "b"):
        path = zoo.write(with_vocabulary(mark), models / f"{mark}.gguf")
        assert same(read_local_header(path, known), read_local_header(path))


def test_a_cut_or_damaged_sibling_is_found(server: RangeServer, models: Path) -> None:
    whole = zoo.write(with_vocabulary(), models / "whole.gguf")
    with whole.open("rb") as file:
        data = file.read(4_000_000)
    end_of_tokens = data.index(b"tokenizer.ggml.token_type")
    (models / "cut.gguf").write_bytes(data[: end_of_tokens - 1000])
    damaged = bytearray(data)
    damaged[end_of_tokens - 8 : end_of_tokens] = b"\xff" * 8
    (models / "damaged.gguf").write_bytes(damaged)
    url, known = server.serve_folder(models), KnownArrays()
    with HttpClient(HubEndpoint(url, None)) as client:
        read_header_at(RemoteFile.at(f"{url}whole.gguf"), client, known)
        for name, error in (("cut", TruncatedFile), ("damaged", CorruptHeader)):
            with pytest.raises(error):
                read_local_header(models / f"{name}.gguf", known)
            with pytest.raises(error):
                read_header_at(RemoteFile.at(f"{url}{name}.gguf"), client, known)


def test_an_array_is_known_by_its_beginning() -> None:
    known, array = KnownArrays(), bytes(range(256)) * 32
    start = ArrayStart("tokenizer.ggml.tokens", 8, 100, 10)
    data = b"0" * 10 + array
    known.add(start, data, len(data))
    assert known.end_of(start, data) == len(data)
    assert known.rest_of(start, data[:-100]) == array[-100:]
    assert known.rest_of(start, data[:100]) == b""  # too little to know it by
    other = dataclasses.replace(start, count=101)
    assert (known.end_of(other, data), known.rest_of(other, data[:-100])) == (None, b"")
    assert known.end_of(start, data[:-1]) is None
    assert known.end_of(start, b"1" * len(data)) is None
