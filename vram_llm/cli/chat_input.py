"""Readers of chat messages: the lines of a pipe, or an editor in a terminal."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from vram_llm.state_file import open_regular

if TYPE_CHECKING:
    from prompt_toolkit.completion import Completer
    from prompt_toolkit.history import History
    from prompt_toolkit.key_binding import KeyBindings

_PROMPT = "> "


class MessageReader(Protocol):
    """Reads one message after the other. `is_interactive`: a person types the messages, and can wait."""

    is_interactive: bool

    def read(self) -> str:
        """The next message. Raises EOFError at the end of the input, KeyboardInterrupt."""
        ...


class LineReader:
    """Reads each line as a message."""

    def __init__(self) -> None:
        self.is_interactive = sys.stdin.isatty()
        if self.is_interactive:
            import readline  # noqa: F401 (gives input() its line editing and its history)

    def read(self) -> str:
        return input(_PROMPT if self.is_interactive else "")


class TerminalReader:
    """A message of one line or several, edited in the terminal; a paste is one message.

    The file `history` keeps the messages for later chats. If it cannot be written, they are kept until this
    chat ends.
    """

    is_interactive = True

    def __init__(self, history: Path, commands: tuple[str, ...]) -> None:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.shortcuts import CompleteStyle

        self._session: PromptSession[str] = PromptSession(
            _PROMPT,
            multiline=True,
            prompt_continuation=" " * len(_PROMPT),
            key_bindings=_keys(),
            history=_history(history),
            completer=_completer(commands),
            complete_while_typing=False,
            complete_style=CompleteStyle.READLINE_LIKE,
            reserve_space_for_menu=0,
            enable_suspend=True,
        )

    def read(self) -> str:
        return self._session.prompt()


def message_reader(history: Path, commands: tuple[str, ...]) -> MessageReader:
    """The reader that suits standard input and output."""
    if sys.stdin.isatty() and sys.stdout.isatty():
        return TerminalReader(history, commands)
    return LineReader()


def _keys() -> "KeyBindings":
    """Enter sends, Alt+Enter begins a line: prompt_toolkit has them the other way round."""
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

    keys = KeyBindings()

    @keys.add("enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return keys


def _history(path: Path) -> "History":
    from prompt_toolkit.history import FileHistory, InMemoryHistory

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(open_regular(path, os.O_RDWR | os.O_CREAT | os.O_APPEND))
    except OSError:
        return InMemoryHistory()
    return FileHistory(str(path))


def _completer(commands: tuple[str, ...]) -> "Completer":
    """Completes a command's name, and the name of a file after it."""
    from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
    from prompt_toolkit.document import Document

    class CommandCompleter(Completer):
        def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterator[Completion]:
            name, space, argument = document.text_before_cursor.partition(" ")
            if not space:
                for command in commands:
                    if name and command.startswith(name):
                        yield Completion(command, -len(name))
            elif name.startswith("/"):
                files = PathCompleter(expanduser=True)
                yield from files.get_completions(Document(argument), complete_event)

    return CommandCompleter()
