"""Chat commands, which begin with a slash, in one table: names, argument, help, function."""

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vram_llm.cli import terminal
from vram_llm.cli.conversation import image_url, text_of, with_text
from vram_llm.errors import RequestError

if TYPE_CHECKING:
    from vram_llm.cli.chat_repl import ChatSession

KEYS = """\
Enter sends, Alt+Enter (or Esc, then Enter) begins another line; a paste is one message.
Up and Ctrl+R find earlier input, also of earlier chats; Tab completes commands and files.
Ctrl+C stops an answer, Ctrl+D leaves."""


@dataclass(frozen=True, slots=True)
class ChatCommand:
    """One row of the table. `argument` is shown in the help; "" if there is none."""

    names: tuple[str, ...]
    argument: str
    help: str
    run: "Callable[[ChatSession, str], None]"


def run_command(session: "ChatSession", line: str) -> None:
    """Run the command in the first word of `line`. Raises RequestError with a sentence."""
    name, _, argument = line.strip().partition(" ")
    command = next((command for command in COMMANDS if name in command.names), None)
    if command is None:
        raise RequestError(f"there is no {name}; /help lists the commands")
    if command.argument == "FILE" and not argument.strip():
        raise RequestError(f"give the file: {name} FILE")
    command.run(session, argument.strip())


def help_text() -> str:
    """The commands and the keys."""
    rows = [(f"{' '.join(command.names)} {command.argument}".rstrip(), command.help) for command in COMMANDS]
    width = max(len(usage) for usage, _ in rows)
    return "\n".join([*(f"{usage:<{width}}  {text}" for usage, text in rows), KEYS])


def _retry(session: "ChatSession", _: str) -> None:
    question = session.conversation.last_question()
    if question is None:
        raise RequestError("there is no question to ask again")
    session.conversation.take_back()
    session.ask(question)


def _edit(session: "ChatSession", _: str) -> None:
    question = session.conversation.last_question()
    try:
        edited = click.edit("" if question is None else text_of(question), extension=".md")
    except click.ClickException as error:
        raise RequestError(f"{error.format_message()}; $EDITOR names the editor") from None
    if edited is None or not edited.strip():
        raise RequestError("nothing was written; nothing is sent")
    if question is None:
        session.ask(session.conversation.question(edited.strip()))
        return
    session.conversation.take_back()
    session.ask(with_text(question, edited.strip()))


def _save(session: "ChatSession", argument: str) -> None:
    path = _path(argument)
    session.conversation.save(path)
    terminal.say(f"saved {len(session.conversation.messages)} messages to {path}")


def _load(session: "ChatSession", argument: str) -> None:
    session.conversation.load(_path(argument))
    unanswered = "; /retry asks the last question" if session.conversation.unanswered else ""
    terminal.say(f"loaded {len(session.conversation.messages)} messages{unanswered}")


def _image(session: "ChatSession", argument: str) -> None:
    model = session.model
    if model.takes_images is False:
        raise RequestError(
            f"{model.name} takes no images; serve a model that does, with its projector: --mmproj FILE"
        )
    path = _path(argument)
    session.conversation.images.append(image_url(path))
    terminal.say(f"{path.name} goes with the next message")


def _system(session: "ChatSession", argument: str) -> None:
    session.conversation.system = argument or session.conversation.system
    terminal.say(f"system: {session.conversation.system or 'nothing'}")


def _clear(session: "ChatSession", _: str) -> None:
    session.conversation.clear()
    terminal.say("forgotten")


def _stats(session: "ChatSession", _: str) -> None:
    terminal.say(session.stats())


def _help(_: "ChatSession", __: str) -> None:
    terminal.say(help_text())


def _leave(_: "ChatSession", __: str) -> None:
    raise EOFError


def _path(argument: str) -> Path:
    """The path as typed, or without the quotes or backslashes with which a terminal pastes a dropped file."""
    path = Path(argument).expanduser()
    if not path.exists():
        try:
            words = shlex.split(argument)
        except ValueError:
            words = []
        if len(words) == 1:
            return Path(words[0]).expanduser()
    return path


COMMANDS = (
    ChatCommand(("/retry",), "", "ask the last question again", _retry),
    ChatCommand(("/edit",), "", "change the last question in $EDITOR and ask it, or write a new one", _edit),
    ChatCommand(("/image",), "FILE", "send a picture with the next message", _image),
    ChatCommand(("/system",), "TEXT", "set the system message; without TEXT: show it", _system),
    ChatCommand(("/save",), "FILE", "save the conversation to a file", _save),
    ChatCommand(("/load",), "FILE", "continue a saved conversation", _load),
    ChatCommand(("/stats",), "", "tokens and speed of the last answer, and of all", _stats),
    ChatCommand(("/clear",), "", "forget the conversation", _clear),
    ChatCommand(("/help",), "", "show this", _help),
    ChatCommand(("/exit", "/bye", "/quit"), "", "leave", _leave),
)
NAMES = tuple(name for command in COMMANDS for name in command.names)
