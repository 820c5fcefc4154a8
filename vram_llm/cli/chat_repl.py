"""A chat at the terminal: lines in, streamed answers out, and a few commands."""

import signal
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from types import FrameType

import click

from vram_llm.cli.stream import ChatServer, StreamedAnswer
from vram_llm.errors import RequestError

HELP = """\
/system TEXT  set what the model is told first; without TEXT: show it
/stats        tokens and speed of the last answer, and of all
/clear        forget the conversation
/help         this
Ctrl+C stops an answer, Ctrl+D leaves."""


@dataclass(slots=True)
class Talk:
    """One conversation. The history is the client's: all of it is sent each time."""

    server: ChatServer
    model: str
    system: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    history: list[dict[str, str]] = field(default_factory=list)
    answers: list[StreamedAnswer] = field(default_factory=list)

    def run(self) -> None:
        """Until the input ends. Raises ServerUnreachable."""
        shows_prompt = sys.stdin.isatty()
        if shows_prompt:
            import readline  # noqa: F401 (gives input() its line editing and its history)

            click.echo(f"{self.model}: /help says what else there is", err=True)
        while True:
            try:
                line = input("> " if shows_prompt else "").strip()
            except EOFError:
                if shows_prompt:
                    click.echo()
                return
            except KeyboardInterrupt:
                click.echo("\nCtrl+D leaves", err=True)
                continue
            if line.startswith("/"):
                self.command(line)
            elif line:
                self.ask(line)

    def command(self, line: str) -> None:
        """Do what a line that begins with a slash says."""
        name, _, rest = line.partition(" ")
        match name:
            case "/help":
                click.echo(HELP)
            case "/stats":
                click.echo(self.stats())
            case "/clear":
                self.history.clear()
                click.echo("forgotten")
            case "/system":
                self.system = rest.strip() or self.system
                click.echo(f"system: {self.system or 'nothing'}")
            case _:
                click.echo(f"there is no {name}; /help lists what there is", err=True)

    def ask(self, question: str) -> None:
        """Stream one answer. What was refused is not kept; what was stopped is, as far as it came."""
        asked = {"role": "user", "content": question}
        messages = [{"role": "system", "content": self.system}] if self.system else []
        wishes = {"max_tokens": self.max_tokens, "temperature": self.temperature}
        given = {name: value for name, value in wishes.items() if value is not None}
        request = {"model": self.model, "messages": [*messages, *self.history, asked], **given}
        answer = StreamedAnswer()
        try:
            with _ctrl_c() as pressed, closing(self.server.stream(request, answer)) as pieces:
                for piece in pieces:
                    if pressed:
                        raise KeyboardInterrupt
                    click.secho(piece.text, nl=False, dim=piece.is_thought or None)
                    sys.stdout.flush()
        except KeyboardInterrupt:
            click.echo(" (stopped)", err=True, nl=False)
        except RequestError as error:
            click.echo(f"{error}{_ADVICE if self.history else ''}", err=True)
            return
        click.echo()
        self.answers.append(answer)
        self.history += [asked, {"role": "assistant", "content": answer.text}]

    def stats(self) -> str:
        """The last answer and all of them, in two lines."""
        if not self.answers:
            return "no answer yet"
        known = [one.completion_tokens or 0 for one in self.answers]
        return f"last: {_said_of(self.answers[-1])}\nall: {len(known)} answers, {sum(known):,} tokens"


@contextmanager
def _ctrl_c() -> Iterator[list[int]]:
    """Raise KeyboardInterrupt as ever, and note it in the list: a library may lose one that it gets while it
    cleans up.
    """
    pressed: list[int] = []

    def on_signal(number: int, _: FrameType | None) -> None:
        pressed.append(number)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, on_signal)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)


_ADVICE = "; /clear forgets the conversation"


def _said_of(answer: StreamedAnswer) -> str:
    if answer.completion_tokens is None:
        return f"stopped after {answer.pieces:,} pieces and {answer.seconds:.1f} s"
    parts = [f"{answer.prompt_tokens:,} tokens in, {answer.completion_tokens:,} out"]
    if answer.first_piece_s is not None:
        parts.append(f"first after {answer.first_piece_s:.2f} s")
    if answer.tokens_per_s is not None:
        parts.append(f"{answer.tokens_per_s:,.1f} tokens per second")
    return ", ".join(parts)
