import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import zoo
from tests.model.range_server import Answer, RangeServer, running
from vram_llm.errors import (
    ChangedOnServer,
    CorruptHeader,
    MissingShard,
    ModelFileError,
    ModelNotFound,
    TruncatedFile,
)
from vram_llm.model import remote
from vram_llm.model.header_reader import read_header
from vram_llm.model.profile import profile


def small() -> zoo.Model:
    return zoo.llama(4, 64, 4, 2, 128, 96)


def wordy(n_tokens: int, n_merges: int) -> zoo.Model:
    """A published 8B model, with a vocabulary of such a size and tokens as long as real ones."""
    model = zoo.llama()
    words = [f"Ġ{i * 2654435761 % 2**32:x}"[: 3 + i % 8] for i in range(n_tokens)]
    model.metadata |= {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": words,
        "tokenizer.ggml.token_type": [1] * n_tokens,
        "tokenizer.ggml.merges": [
            f"{words[i % n_tokens]} {words[i * 7 % n_tokens]}" for i in range(n_merges)
        ],
        "tokenizer.chat_template": "{{ messages }}" * 300,
    }
    return model


def test_a_header_of_a_large_file_costs_few_bytes(server: RangeServer, models: Path) -> None:
    path = zoo.write(wordy(128_256, 280_147), models / "m.gguf")
    size = path.stat().st_size
    header = read_header(server.serve_folder(models) + "m.gguf")
    local = read_header(path)
    assert (header.metadata, header.tensors) == (local.metadata, local.tensors)
    assert [(str(s.path), s.n_bytes, s.data_offset) for s in header.shards] == [
        (f"{server.url}/m.gguf", size, local.shards[0].data_offset)
    ]
    assert size > 8 * 10**9
    assert local.shards[0].data_offset > 6_000_000
    assert server.sent_bytes < 2 * local.shards[0].data_offset < 0.03 * size
    assert len(server.seen) <= 6


def test_a_header_without_vocabulary_costs_one_request(server: RangeServer, models: Path) -> None:
    path = zoo.write(zoo.nemotron_49b(), models / "m.gguf")
    found = profile(read_header(server.serve_folder(models) + "m.gguf"))
    expected = profile(read_header(path))
    assert (found.layers, found.total_bytes) == (expected.layers, expected.total_bytes)
    assert server.ranges() == [f"bytes=0-{remote.FIRST_BYTES - 1}"]
    assert server.sent_bytes == remote.FIRST_BYTES


def test_all_parts_are_found_from_any(server: RangeServer, models: Path) -> None:
    zoo.write(small(), models / "a model.gguf", shard_bytes=40_000)
    names = sorted(path.name for path in models.iterdir())
    url = server.serve_folder(models, "/x/")
    expected = read_header(models / names[0])
    for name in names:
        header = read_header(url + name.replace(" ", "%20"))
        assert (header.metadata, header.tensors) == (expected.metadata, expected.tensors)
        assert [shard.path.name for shard in header.shards] == names
        assert str(header.path) == f"{url}a%20model-00001-of-{len(names):05d}.gguf"
    assert len(names) > 2


def test_a_part_written_otherwise_is_still_itself(server: RangeServer, models: Path) -> None:
    zoo.write(small(), models / "m.gguf", shard_bytes=40_000)
    names = sorted(path.name for path in models.iterdir())
    header = read_header(server.serve_folder(models) + names[1].replace("m", "%6D", 1) + "?download=true")
    assert [shard.path.name for shard in header.shards] == names
    assert len(server.seen) == len(names)
    assert all(path.endswith("?download=true") for path, _ in server.seen)


def test_a_part_that_is_gone_is_named(server: RangeServer, models: Path) -> None:
    zoo.write(small(), models / "m.gguf", shard_bytes=40_000)
    names = sorted(path.name for path in models.iterdir())
    url = server.serve_folder(models)
    del server.files["/" + names[2]]
    sentence = f"^{names[2]}, one of the model's {len(names)} parts, is not in {server.url}$"
    with pytest.raises(MissingShard, match=sentence):
        read_header(url + names[0])


def test_an_absurd_number_of_parts_is_not_asked_for(server: RangeServer, models: Path) -> None:
    model = small()
    model.metadata |= {"split.no": zoo.Exact("H", 0), "split.count": zoo.Exact("H", 60_000)}
    name = zoo.write(model, models / "m-00001-of-60000.gguf").name
    with pytest.raises(CorruptHeader, match="60,000 parts"):
        read_header(server.serve_folder(models) + name)
    assert len(server.seen) == 1


def test_a_file_that_is_replaced_once_is_read_anew(server: RangeServer, models: Path) -> None:
    path = zoo.write(wordy(40_000, 1), models / "m.gguf")
    other = zoo.write(wordy(40_003, 1), models / "other.gguf")
    url = server.serve_folder(models)
    server.tags["/m.gguf"] = '"first"'

    def replace(_: str) -> None:
        if len(server.seen) == 2:
            server.tags["/m.gguf"] = '"second"'
            server.files["/m.gguf"] = other

    server.before = replace
    header = read_header(url + "m.gguf")
    assert header.metadata == read_header(other).metadata != read_header(path).metadata
    assert [each.split("-")[0] for each in server.ranges()[:3]] == ["bytes=0", "bytes=65536", "bytes=0"]


def test_a_file_that_is_replaced_again_and_again(server: RangeServer, models: Path) -> None:
    zoo.write(wordy(40_000, 1), models / "m.gguf")
    server.before = lambda path: server.tags.update({path: f'"{len(server.seen)}"'})
    with pytest.raises(ChangedOnServer, match=r"m\.gguf was replaced on the server while it was read"):
        read_header(server.serve_folder(models) + "m.gguf")
    assert len(server.seen) == 4


def test_a_file_that_shrinks(server: RangeServer, models: Path) -> None:
    zoo.write(wordy(40_000, 1), models / "m.gguf")
    (models / "short.gguf").write_bytes(bytes(100))
    url = server.serve_folder(models)

    def shrink(path: str) -> None:
        server.files[path] = models / ("m.gguf" if len(server.seen) % 2 else "short.gguf")

    server.before = shrink
    with pytest.raises(ChangedOnServer, match="has become shorter"):
        read_header(url + "m.gguf")


def cut(raw: bytes) -> bytes:
    return raw[:300]


def without_its_data(raw: bytes) -> bytes:
    return raw[:-100]


def a_page(raw: bytes) -> bytes:
    return b"<!DOCTYPE html>" + raw


@pytest.mark.parametrize(
    ("damage", "error", "sentence"),
    [
        (cut, TruncatedFile, "m.gguf is cut short: its header goes on past the 300 bytes"),
        (without_its_data, TruncatedFile, "100 bytes of its tensor data are missing"),
        (a_page, ModelFileError, "it is a web page"),
    ],
)
def test_what_the_server_has_may_be_damaged(
    server: RangeServer,
    models: Path,
    damage: Callable[[bytes], bytes],
    error: type[ModelFileError],
    sentence: str,
) -> None:
    path = zoo.write(small(), models / "m.gguf")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(error, match=sentence):
        read_header(server.serve_folder(models) + "m.gguf")


def test_a_header_without_end_is_given_up(
    server: RangeServer, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zoo.write(wordy(128_256, 1), models / "m.gguf")
    monkeypatch.setattr(remote, "MAX_HEADER_BYTES", 2**20)
    with pytest.raises(CorruptHeader, match=r"longer than 1.00 MiB"):
        read_header(server.serve_folder(models) + "m.gguf")
    assert server.sent_bytes <= 2**20


def test_a_redirect_is_followed_with_each_range(server: RangeServer, models: Path) -> None:
    path = zoo.write(wordy(40_000, 1), models / "m.gguf")
    with running() as store:
        store.serve_folder(models)
        server.answers["/repo/m.gguf"] = Answer(302, {"Location": f"{store.url}/m.gguf?signature=1"})
        header = read_header(f"{server.url}/repo/m.gguf")
        assert header.tensors == read_header(path).tensors
        assert store.ranges() == server.ranges()
        assert str(header.path) == f"{server.url}/repo/m.gguf"


def test_what_is_kept_costs_one_question(server: RangeServer, models: Path) -> None:
    zoo.write(wordy(40_000, 1), models / "m.gguf")
    url = server.serve_folder(models) + "m.gguf"
    first = read_header(url)
    n_requests, n_bytes = len(server.seen), server.sent_bytes
    assert read_header(url) == first
    assert (len(server.seen), server.sent_bytes) == (n_requests + 1, n_bytes)
    server.tags["/m.gguf"] = '"new"'
    assert read_header(url) == first
    assert len(server.seen) == 2 * n_requests + 1


@pytest.mark.parametrize(
    "address", ["https://", "http://host", "http://host/", "https://[::1/m", "http://h:x/m"]
)
def test_an_address_of_no_file(address: str) -> None:
    with pytest.raises(ModelNotFound, match=r"names no file; write it like https://HOST/FOLDER/FILE\.gguf"):
        read_header(address)


@pytest.mark.process
def test_a_local_model_needs_no_http_client() -> None:
    script = "import sys, vram_llm; vram_llm.analyze('demo'); print('httpx' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
