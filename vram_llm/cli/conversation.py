"""A conversation as OpenAI's messages: asked, answered, taken back, and kept in a file."""

import base64
import json
import mimetypes
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vram_llm.errors import RequestError

Message = dict[str, Any]
_ROLES = ("system", "user", "assistant")


@dataclass(slots=True)
class Conversation:
    """The messages so far. The history is the client's: all of it is sent each time."""

    system: str | None = None
    messages: list[Message] = field(default_factory=list)  # questions and answers in turn
    unanswered: Message | None = None  # the last question, where no answer to it is kept
    images: list[str] = field(default_factory=list)  # data URLs, which go with the next question

    def question(self, text: str) -> Message:
        """A question with the images that wait for one."""
        images, self.images = self.images, []
        return _with_text(images, text)

    def request_messages(self, question: Message) -> list[Message]:
        """All that is sent to ask `question`."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, *self.messages, question]

    def add(self, question: Message, answer: str) -> None:
        """Keep a question with its answer."""
        self.messages += [question, {"role": "assistant", "content": answer}]
        self.unanswered = None

    def last_question(self) -> Message | None:
        """The question that /retry asks again: one without an answer before one with."""
        if self.unanswered is not None:
            return self.unanswered
        return next((each for each in reversed(self.messages) if each["role"] == "user"), None)

    def take_back(self) -> None:
        """Forget the last question and what followed it."""
        if self.unanswered is not None:
            self.unanswered = None
            return
        while self.messages and self.messages.pop()["role"] != "user":
            pass

    def clear(self) -> None:
        """Forget all but the system message."""
        self.messages.clear()
        self.images.clear()
        self.unanswered = None

    def save(self, path: Path) -> None:
        """Write it as the body of a request. Raises RequestError where another file is there."""
        if path.exists() and _read(path) is None:
            raise RequestError(f"{path} is there and no conversation; give another name")
        system = [{"role": "system", "content": self.system}] if self.system else []
        asked = [self.unanswered] if self.unanswered is not None else []
        text = json.dumps({"messages": [*system, *self.messages, *asked]}, indent=2, ensure_ascii=False)
        _replace(path, text + "\n")

    def load(self, path: Path) -> None:
        """Go on with the conversation in a file. Raises RequestError."""
        if not path.exists():
            raise RequestError(f"there is no file {path}")
        messages = _read(path)
        if messages is None:
            raise RequestError(
                f'{path} is no conversation: a JSON object with "messages", as /save writes it'
            )
        self.clear()
        self.system = next((each["content"] for each in messages if each["role"] == "system"), None)
        self.messages = [each for each in messages if each["role"] != "system"]
        if self.messages and self.messages[-1]["role"] == "user":
            self.unanswered = self.messages.pop()


def text_of(message: Message) -> str:
    """The text of a message, without its images."""
    content = message["content"]
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content if part.get("type") == "text")


def with_text(message: Message, text: str) -> Message:
    """The same question in other words, with the same images."""
    content = message["content"]
    parts = [] if isinstance(content, str) else content
    return _with_text([part["image_url"]["url"] for part in parts if part.get("type") == "image_url"], text)


def image_url(path: Path) -> str:
    """The picture as a data: URL. Raises RequestError."""
    kind, _ = mimetypes.guess_type(path.name)
    if kind is None or not kind.startswith("image/"):
        raise RequestError(f"{path} has no picture's name: .png, .jpg, .gif, .bmp or .webp")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror or error}") from None
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _with_text(images: list[str], text: str) -> Message:
    if not images:
        return {"role": "user", "content": text}
    pictures = [{"type": "image_url", "image_url": {"url": url}} for url in images]
    return {"role": "user", "content": [*pictures, {"type": "text", "text": text}]}


def _read(path: Path) -> list[Message] | None:
    """The messages in a file; None where it is no conversation."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    messages = found.get("messages") if isinstance(found, dict) else None
    is_valid = isinstance(messages, list) and all(
        isinstance(each, dict) and each.get("role") in _ROLES and isinstance(each.get("content"), str | list)
        for each in messages
    )
    return messages if is_valid else None


def _replace(path: Path, text: str) -> None:
    """Write a file whole, or leave the old one. Raises RequestError."""
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, suffix=".new")
        try:
            with open(descriptor, "w", encoding="utf-8") as stream:
                stream.write(text)
            os.replace(name, path)
        except OSError:
            os.unlink(name)
            raise
    except OSError as error:
        raise RequestError(f"{path} cannot be written: {error.strerror or error}") from None
