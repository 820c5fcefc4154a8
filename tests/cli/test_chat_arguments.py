"""The meaning of the arguments of `chat`, and addresses as people type them."""

import click
import pytest

from vram_llm.cli.chat_arguments import ChatArguments, parse
from vram_llm.cli.server_address import base_url, is_address

LOCAL = "127.0.0.1:8080"


@pytest.mark.parametrize(
    ("words", "model_option", "url", "meant"),
    [
        ([], None, None, ChatArguments(None, None, (), None)),
        (["a.gguf"], None, None, ChatArguments(None, "a.gguf", (), None)),
        (["a.gguf", "Why?"], None, None, ChatArguments(None, "a.gguf", (), "Why?")),
        (["a.gguf", "Why", "so?"], None, None, ChatArguments(None, "a.gguf", (), "Why so?")),
        (
            ["a.gguf", "-c", "4k", "Why?", "--no-mmap", "--gpu=24GiB"],
            None,
            None,
            ChatArguments(None, "a.gguf", ("-c", "4k", "--no-mmap", "--gpu=24GiB"), "Why?"),
        ),
        (
            ["a.gguf", "-fa", "-ngl", "-1", "Why?"],
            None,
            None,
            ChatArguments(None, "a.gguf", ("-fa", "-ngl", "-1"), "Why?"),
        ),
        (["--n-ctx", "4k"], None, None, ChatArguments(None, None, ("--n-ctx", "4k"), None)),
        (["Why?"], "a.gguf", None, ChatArguments(None, "a.gguf", (), "Why?")),
        (["--n-ctx", "4k"], "a.gguf", None, ChatArguments(None, "a.gguf", ("--n-ctx", "4k"), None)),
        (["llama3.1:8b"], None, None, ChatArguments(None, "llama3.1:8b", (), None)),
        (["hf:org/repo:Q4_K_M"], None, None, ChatArguments(None, "hf:org/repo:Q4_K_M", (), None)),
        ([LOCAL], None, None, ChatArguments(LOCAL, None, (), None)),
        ([LOCAL, "Why?"], None, None, ChatArguments(LOCAL, None, (), "Why?")),
        ([], None, LOCAL, ChatArguments(LOCAL, None, (), None)),
        (["Why", "so?"], None, LOCAL, ChatArguments(LOCAL, None, (), "Why so?")),
    ],
)
def test_arguments(words: list[str], model_option: str | None, url: str | None, meant: ChatArguments) -> None:
    assert parse(words[0] if words else None, model_option, words[1:], url) == meant


@pytest.mark.parametrize(
    ("words", "model_option", "url", "sentence"),
    [
        (["demo"], None, LOCAL, "not both"),
        (["a.gguf"], None, LOCAL, "not both"),
        ([], "a.gguf", LOCAL, "not both"),
        ([LOCAL, "--n-ctx", "4k"], None, None, "--n-ctx is for a model to load"),
    ],
)
def test_contradictions(words: list[str], model_option: str | None, url: str | None, sentence: str) -> None:
    with pytest.raises(click.UsageError, match=sentence):
        parse(words[0] if words else None, model_option, words[1:], url)


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("127.0.0.1:8080", "http://127.0.0.1:8080/v1"),
        ("gpu.lan:8080/", "http://gpu.lan:8080/v1"),
        ("gpu.lan:8080/v1", "http://gpu.lan:8080/v1"),
        ("[::1]:8080", "http://[::1]:8080/v1"),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080/v1"),
        ("https://example.com/api/v1/", "https://example.com/api/v1"),
    ],
)
def test_an_address_becomes_a_url(address: str, url: str) -> None:
    assert is_address(address)
    assert base_url(address) == url


@pytest.mark.parametrize(
    "model", ["demo", "a.gguf", "dir/a.gguf", "llama3.1:8b", "hf:org/repo:Q4_K_M", "https://host/a.gguf"]
)
def test_a_model_is_no_address(model: str) -> None:
    assert not is_address(model)
