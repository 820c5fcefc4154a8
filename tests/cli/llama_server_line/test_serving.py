"""`vram-llm llama-server` as a process: it serves, says what it ignores, and refuses in one sentence."""

from pathlib import Path

import pytest

from tests.cli.running import environment, run, run_here
from tests.server.live import serving
from vram_llm import demo


def test_print_shows_the_command_and_what_is_not_used() -> None:
    printed = run_here(
        "llama-server", "--print", "-m", "m.gguf", "-c", "4096", "--threads-http", "4", "--jinja"
    )
    assert printed.returncode == 0
    assert printed.stdout.splitlines() == [
        "vram-llm serve --model m.gguf --n-ctx 4096 --cors-origin '*'",
        "# ignored: --threads-http 4: requests are read by one event loop",
        "# always so: --jinja: chat templates are rendered by jinja",
    ]
    assert printed.stderr == ""


def test_the_printed_command_has_the_variables_that_the_program_reads() -> None:
    printed = run_here("llama-server", "--print", "-hf", "a/b", "-hft", "a token", "--offline")
    first = printed.stdout.splitlines()[0]
    assert first.startswith("HF_TOKEN='a token' HF_HUB_OFFLINE=1 vram-llm serve --model hf:a/b:Q4_K_M")


def test_print_does_not_show_a_key_of_the_environment() -> None:
    env = {**environment(), "LLAMA_API_KEY": "secret"}
    printed = run_here("llama-server", "--print", "-m", "m.gguf", "--host", "0.0.0.0", env=env)
    assert printed.stdout.splitlines() == [
        "VRAM_LLM_API_KEY=\"$LLAMA_API_KEY\" vram-llm serve --model m.gguf --host 0.0.0.0 --cors-origin '*'"
    ]
    assert printed.stderr == ""


@pytest.mark.parametrize("words", [("--tools", "all"), ("-sm", "row"), ("--no-such-flag",)])
def test_what_is_refused_is_wrong_usage(words: tuple[str, ...]) -> None:
    refused = run_here("llama-server", "-m", demo.path(), *words)
    assert refused.returncode == 64
    (sentence,) = refused.stderr.splitlines()
    assert words[0] in sentence


@pytest.mark.process
def test_a_model_that_is_not_here_is_a_sentence_of_serve() -> None:
    refused = run("llama-server", "-m", "/nowhere/m.gguf")
    assert refused.returncode not in (0, 64)
    assert "/nowhere/m.gguf" in refused.stderr


@pytest.mark.process
def test_it_serves(tmp_path: Path) -> None:
    template = "{% for message in messages %}{{ message.content }}{% endfor %} 1 2 3"
    line = (
        "-m",
        demo.path(),
        "-c",
        "2048",
        "-np",
        "2",
        "-t",
        "1",
        "-ngl",
        "0",
        "--jinja",
        "-a",
        "small,tiny",
    )
    more = ("--threads-http", "2", "--temp", "0", "--chat-template", template)
    with serving(*line, *more, command_name="llama-server") as served:
        served.await_health()
        assert {model.id for model in served.client.models.list()} >= {"small"}
        assert served.chat("Count: ")
        assert served.end() == 0
    assert "ignored: --threads-http 2: requests are read by one event loop" in served.said()


@pytest.mark.process
def test_a_line_that_cannot_fit_is_refused_with_the_missing_bytes() -> None:
    refused = run("llama-server", "-m", demo.path(), "-c", "15000000", "-ngl", "0", "-np", "1")
    assert refused.returncode == 2
    assert "GiB" in refused.stderr
