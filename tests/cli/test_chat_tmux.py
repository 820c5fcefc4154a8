"""`chat` in a real terminal, with the real server: pastes, history, size, a restart, pictures, its keys."""

import json
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.cli import tmux
from tests.cli.running import command, environment
from tests.cli.tmux import Tmux, needs_tmux
from tests.companions import write_mmproj
from tests.pictures import png
from tests.server.live import Serving, serving
from tools.random_model import write_llama

pytestmark = [pytest.mark.process, needs_tmux]
PROMPT = r"^> ?$"  # an empty one, which waits


@contextmanager
def chatting(served: Serving, folder: Path, *options: str) -> Iterator[Tmux]:
    """A chat with HOST:PORT of the server, ready for the first message. Its history is kept in `folder`."""
    address = served.url.removeprefix("http://")
    line = command("chat", address, "--temperature", "0", "--max-tokens", "30", *options)
    with tmux.running(line, {**environment(), "VRAM_LLM_DATA_DIR": str(folder)}) as terminal:
        terminal.await_screen(PROMPT)
        yield terminal


def await_answer(terminal: Tmux, question: str) -> None:
    """Wait until the question, whose last line this is, has an answer and the prompt is back."""
    terminal.await_screen(rf"{re.escape(question)}\n(?:.*\n)+> ?\n*\Z")


def ask(terminal: Tmux, question: str) -> None:
    """Type a question of one line and wait for its answer."""
    terminal.enter(question)
    await_answer(terminal, question)


def saved(terminal: Tmux, path: Path) -> list[dict[str, Any]]:
    """The messages of the conversation, by /save. The prompt is there."""
    terminal.enter(f"/save {path}")
    terminal.await_screen(r"^saved \d+ messages to ")
    messages: list[dict[str, Any]] = json.loads(path.read_text())["messages"]
    return messages


def test_a_paste_of_three_lines_is_one_message(demo_server: Serving, tmp_path: Path) -> None:
    with chatting(demo_server, tmp_path) as terminal:
        terminal.paste("What is\n/clear\nGGUF?\n")
        terminal.await_screen(r"^> What is\n  /clear\n  GGUF\?$")
        terminal.press("Enter")
        await_answer(terminal, "GGUF?")
        question, answer = saved(terminal, tmp_path / "saved.json")
        assert question == {"role": "user", "content": "What is\n/clear\nGGUF?"}
        assert answer["role"] == "assistant"
        assert answer["content"]


def test_lines_typed_with_alt_enter_are_one_message(demo_server: Serving, tmp_path: Path) -> None:
    with chatting(demo_server, tmp_path) as terminal:
        terminal.type("What is")
        terminal.press("M-Enter")
        terminal.type("a token?")
        terminal.await_screen(r"^> What is\n  a token\?$")
        terminal.press("Enter")
        await_answer(terminal, "a token?")
        assert saved(terminal, tmp_path / "saved.json")[0]["content"] == "What is\na token?"


def test_what_was_typed_is_found_again_in_the_next_chat(demo_server: Serving, tmp_path: Path) -> None:
    with chatting(demo_server, tmp_path) as terminal:
        ask(terminal, "What is VRAM?")
        terminal.press("Up")
        terminal.await_screen(r"^> What is VRAM\?$", count=2)
    with chatting(demo_server, tmp_path) as terminal:
        terminal.press("Up")
        terminal.await_screen(r"^> What is VRAM\?$")
        terminal.press("Enter")
        await_answer(terminal, "What is VRAM?")
        assert saved(terminal, tmp_path / "saved.json")[0]["content"] == "What is VRAM?"
    assert (tmp_path / "chat_history").stat().st_mode & 0o077 == 0


def test_a_message_outlives_a_change_of_the_windows_size(demo_server: Serving, tmp_path: Path) -> None:
    words = " ".join(f"word{n}" for n in range(20))
    with chatting(demo_server, tmp_path) as terminal:
        terminal.type(words)
        terminal.await_screen("word19$")
        terminal.resize(40, 30)
        terminal.type(" narrow")
        terminal.await_screen("narrow$")
        terminal.resize(100, 40)
        terminal.type(" wide")
        terminal.await_screen(r"narrow wide$")
        terminal.press("Enter")
        await_answer(terminal, "narrow wide")
        assert saved(terminal, tmp_path / "saved.json")[0]["content"] == f"{words} narrow wide"


def test_a_server_that_is_started_again_between_two_questions(tmp_path: Path) -> None:
    with serving("demo") as first:
        first.await_health()
        with chatting(first, tmp_path) as terminal:
            ask(terminal, "What is GGUF?")
            assert first.end() == 0
            terminal.enter("What is VRAM?")
            terminal.await_screen(r"^no server answers at .*; waiting for the server, Ctrl\+C stops that")
            with serving("demo", port=first.port):
                await_answer(terminal, "Ctrl+C stops that")
                messages = saved(terminal, tmp_path / "saved.json")
            assert [each["role"] for each in messages] == ["user", "assistant"] * 2
            assert [each["content"] for each in messages[::2]] == ["What is GGUF?", "What is VRAM?"]
            terminal.enter("And now?")
            terminal.await_screen("waiting for the server", count=2)
            terminal.press("C-c")
            terminal.await_screen(r"^not sent; /retry asks again\n> ?\n*\Z")
            terminal.press("C-d")
            assert terminal.await_end() == 0


def test_a_server_that_dies_in_the_middle_of_an_answer(tmp_path: Path) -> None:
    model = write_llama(tmp_path / "tiny.gguf", n_vocab=320, seed=2)  # it talks without end at temperature 0
    with serving(model, "--n-ctx", "32k") as first:
        first.await_health()
        with chatting(first, tmp_path, "--max-tokens", "30000") as terminal:
            terminal.enter("hello")
            terminal.await_screen(r"^> hello\n+.*\S")
            first.end(signal.SIGKILL)
            terminal.await_screen(r"; /retry asks again$")
            with serving("demo", port=first.port) as second:
                second.await_health()
                ask(terminal, "/retry")
                question, answer = saved(terminal, tmp_path / "saved.json")
            assert question["content"] == "hello"
            assert answer["content"].startswith("Hello")


def test_a_picture(demo_server: Serving, tmp_path: Path) -> None:
    picture = tmp_path / "a cat.png"
    picture.write_bytes(png(1))
    model = write_llama(tmp_path / "tiny.gguf")
    with serving(model, "--mmproj", str(write_mmproj(tmp_path / "mmproj.gguf"))) as seeing:
        seeing.await_health()
        with chatting(seeing, tmp_path) as terminal:
            terminal.enter(f"/image '{picture}'")
            terminal.await_screen("^a cat.png goes with the next message")
            ask(terminal, "What is this?")
            question, _ = saved(terminal, tmp_path / "saved.json")
            image, text = question["content"]
            assert image["image_url"]["url"].startswith("data:image/png;base64,iVBOR")
            assert text == {"type": "text", "text": "What is this?"}
    with chatting(demo_server, tmp_path) as terminal:
        terminal.enter(f"/image {picture}")
        terminal.await_screen("^demo takes no images; serve a model that does, with its projector: --mmproj")


def test_an_answer_is_edited_stopped_and_left(demo_server: Serving, tmp_path: Path) -> None:
    editor = tmp_path / "editor"
    editor.write_text('#!/bin/sh\nsed -i s/GGUF/VRAM/ "$1"\n')
    editor.chmod(0o700)
    address = demo_server.url.removeprefix("http://")
    names = {"VISUAL": str(editor), "EDITOR": str(editor), "VRAM_LLM_DATA_DIR": str(tmp_path)}
    line = command("chat", address, "--temperature", "0", "--max-tokens", "30")
    with tmux.running(line, {**environment(), **names}) as terminal:
        terminal.await_screen(PROMPT)
        ask(terminal, "What is GGUF?")
        ask(terminal, "/edit")
        assert saved(terminal, tmp_path / "saved.json")[0]["content"] == "What is VRAM?"
        terminal.press("C-c")
        terminal.await_screen(r"^Ctrl\+D leaves\n> ?\n*\Z")
        terminal.enter("/bye")
        assert terminal.await_end() == 0


def test_a_chat_with_a_server_of_its_own(tmp_path: Path) -> None:
    line = command("chat", "demo", "--temperature", "0", "--max-tokens", "30")
    with tmux.running(line, {**environment(), "VRAM_LLM_DATA_DIR": str(tmp_path)}) as terminal:
        terminal.await_screen(r"^demo: /help lists commands and keys\s*\n> ?$")
        ask(terminal, "What is GGUF?")
        terminal.press("C-d")
        assert terminal.await_end() == 0
