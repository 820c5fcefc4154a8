"""A conversation as a list of OpenAI messages, and its file."""

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
    """The messages so far. The client keeps the history, and sends all of it with each request."""

    system: str | None = None
    messages: list[Message] = field(default_factory=list)  # questions and answers in turn
    unanswered: Message | None = None  # the last question, if it has no answer
    images: list[str] = field(default_factory=list)  # data URLs for the next question

    def question(self, text: str) -> Message:
        """A question with the images added for it."""
        images, self.images = self.images, []
        return _with_text(images, text)

    def request_messages(self, question: Message) -> list[Message]:
        """The messages of the request that asks `question`."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, *self.messages, question]

    def add(self, question: Message, answer: str) -> None:
        """Keep a question with its answer."""
        self.messages += [question, {"role": "assistant", "content": answer}]
        self.unanswered = None

    def last_question(self) -> Message | None:
        """The question that /retry repeats: the unanswered one, else the last answered one."""
        if self.unanswered is not None:
            return self.unanswered
        return next((message for message in reversed(self.messages) if message["role"] == "user"), None)

    def take_back(self) -> None:
        """Forget the last question and its answer."""
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
        """Write the conversation as the body of a request. Raises RequestError if `path` is another file."""
        if path.exists() and _read(path) is None:
            raise RequestError(f"{path} exists and is not a conversation; give another name")
        system = [{"role": "system", "content": self.system}] if self.system else []
        asked = [self.unanswered] if self.unanswered is not None else []
        text = json.dumps({"messages": [*system, *self.messages, *asked]}, indent=2, ensure_ascii=False)
        _replace(path, text + "\n")

    def load(self, path: Path) -> None:
        """Continue the conversation in a file. Raises RequestError."""
        if not path.exists():
            raise RequestError(f"there is no file {path}")
        messages = _read(path)
        if messages is None:
            raise RequestError(
                f'{path} is not a conversation: a JSON object with "messages", as /save writes it'
            )
        self.clear()
        self.system = next((message["content"] for message in messages if message["role"] == "system"), None)
        self.messages = [message for message in messages if message["role"] != "system"]
        if self.messages and self.messages[-1]["role"] == "user":
            self.unanswered = self.messages.pop()


def text_of(message: Message) -> str:
    """The text of a message, without its images."""
    content = message["content"]
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content if part.get("type") == "text")


def with_text(message: Message, text: str) -> Message:
    """The question with other text and the same images."""
    content = message["content"]
    parts = [] if isinstance(content, str) else content
    return _with_text([part["image_url"]["url"] for part in parts if part.get("type") == "image_url"], text)


def image_url(path: Path) -> str:
    """The picture as a data: URL. Raises RequestError."""
    kind, _ = mimetypes.guess_type(path.name)
    if kind is None or not kind.startswith("image/"):
        raise RequestError(f"{path} is not named like an image: .png, .jpg, .gif, .bmp or .webp")
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
    """The messages in a file; None if it is not a conversation."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    messages = document.get("messages") if isinstance(document, dict) else None
    is_valid = isinstance(messages, list) and all(
        isinstance(message, dict)
        and message.get("role") in _ROLES
        and isinstance(message.get("content"), str | list)
        for message in messages
    )
    return messages if is_valid else None


def _replace(path: Path, text: str) -> None:
    """Write a file whole, or keep the old one. Raises RequestError."""
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
