"""A chat at the terminal: messages in, streamed answers out, and a few commands."""

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import click

from vram_llm.cli import terminal
from vram_llm.cli.chat_client import AnswerLost, ChatClient, ServedModel, StreamedAnswer
from vram_llm.cli.chat_commands import run_command
from vram_llm.cli.chat_input import MessageReader
from vram_llm.cli.conversation import Conversation, Message
from vram_llm.errors import RequestError, ServerUnreachable

_LOOK_EVERY_S = 0.5
_UNSEEN = {code: None for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


@dataclass(slots=True)
class ChatSession:
    """One conversation with a server. `sampling` holds the fields of requests that the options set."""

    client: ChatClient
    model: ServedModel
    conversation: Conversation = field(default_factory=Conversation)
    sampling: dict[str, Any] = field(default_factory=dict)
    answers: list[StreamedAnswer] = field(default_factory=list)

    def run(self, reader: MessageReader, *, server_may_return: bool) -> None:
        """Answer messages until the input ends. Raises ServerUnreachable if the reader is not interactive.

        `server_may_return`: wait for a server that does not answer any more.
        """
        if reader.is_interactive:
            terminal.say(f"{self.model.name}: /help lists commands and keys", err=True)
        while True:
            try:
                self._act(reader.read(), waits=reader.is_interactive and server_may_return)
            except EOFError:
                return
            except KeyboardInterrupt:
                terminal.say("Ctrl+D leaves", err=True)
            except RequestError as error:
                terminal.say(str(error), err=True)
            except ServerUnreachable as error:
                if not reader.is_interactive:
                    raise
                terminal.say(f"{error}; /retry asks again", err=True)

    def _act(self, message: str, *, waits: bool) -> None:
        """Run a command, or ask a question. If the server is away, wait and ask again."""
        is_command = message.startswith("/") and "\n" not in message.strip()
        if not message.strip():
            return
        try:
            if is_command:
                run_command(self, message)
            else:
                self.ask(self.conversation.question(message.strip()))
        except AnswerLost:
            raise
        except ServerUnreachable as error:
            if not waits:
                raise
            self._wait_and_ask_again(str(error))

    def _wait_and_ask_again(self, reason: str) -> None:
        """Wait for the server and ask the question that it did not answer. Raises RequestError."""
        while (question := self.conversation.unanswered) is not None:
            terminal.say(f"{reason}; waiting for the server, Ctrl+C stops that", err=True)
            try:
                self._await_server()
            except KeyboardInterrupt:
                raise RequestError("\nnot sent; /retry asks again") from None
            try:
                self.ask(question)
            except ServerUnreachable as error:
                reason = str(error)

    def _await_server(self) -> None:
        time.sleep(_LOOK_EVERY_S)  # between two looks at the server
        while not self.client.is_up():
            time.sleep(_LOOK_EVERY_S)  # between two looks at the server
        model = self.client.model()
        if model.name != self.model.name:
            terminal.say(f"the server is back, with {model.name}", err=True)
        self.model = model

    def ask(self, question: Message) -> None:
        """Stream one answer. A stopped answer is kept up to that point; /retry repeats a question without an
        answer.

        Raises RequestError, ServerUnreachable, AnswerLost.
        """
        self.conversation.unanswered = question
        messages = self.conversation.request_messages(question)
        answer = StreamedAnswer()
        try:
            self._show({"model": self.model.name, "messages": messages, **self.sampling}, answer)
        except KeyboardInterrupt:
            terminal.say(" (stopped)", err=True, nl=False)
        except AnswerLost:
            click.echo()
            raise
        except RequestError as error:
            hint = "; /clear forgets the conversation" if self.conversation.messages else ""
            raise RequestError(f"{error}{hint}") from None
        click.echo()
        self.answers.append(answer)
        self.conversation.add(question, answer.text)

    def _show(self, request: dict[str, Any], answer: StreamedAnswer) -> None:
        """Print an answer as it arrives. Thoughts are dim; without a terminal they go to standard error."""
        is_terminal = sys.stdout.isatty()
        with _ctrl_c() as pressed, closing(self.client.stream(request, answer)) as pieces:
            for piece in pieces:
                if pressed:
                    raise KeyboardInterrupt
                text = piece.text.translate(_UNSEEN) if is_terminal else piece.text
                to_stderr = piece.is_thought and not is_terminal
                click.secho(text, nl=False, dim=piece.is_thought or None, err=to_stderr)
                sys.stdout.flush()

    def stats(self) -> str:
        """The last answer and all of them, in two lines."""
        if not self.answers:
            return "no answer yet"
        tokens = [answer.completion_tokens or 0 for answer in self.answers]
        return f"last: {_figures(self.answers[-1])}\nall: {len(tokens)} answers, {sum(tokens):,} tokens"


@contextmanager
def _ctrl_c() -> Iterator[list[int]]:
    """Raise KeyboardInterrupt on Ctrl+C, and note it in the list: a library that cleans up may swallow it."""
    pressed: list[int] = []

    def on_signal(number: int, _: FrameType | None) -> None:
        pressed.append(number)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, on_signal)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)


def _figures(answer: StreamedAnswer) -> str:
    if answer.completion_tokens is None:
        return f"stopped after {answer.pieces:,} pieces and {answer.seconds:.1f} s"
    parts = [f"{answer.prompt_tokens:,} tokens in, {answer.completion_tokens:,} out"]
    if answer.first_piece_s is not None:
        parts.append(f"first after {answer.first_piece_s:.2f} s")
    if answer.tokens_per_s is not None:
        parts.append(f"{answer.tokens_per_s:,.1f} tokens per second")
    return ", ".join(parts)
