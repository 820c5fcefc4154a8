"""The images and audio files of one request: their allowed sources, their sizes, their places in the prompt.

A chat template reads only text. Each file becomes a random mark in it, which clients cannot guess or write.
The rendered prompt is searched for the marks, and they are removed.
"""

import base64
import binascii
import os
import secrets
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from vram_llm.engine.request import Image
from vram_llm.errors import RequestError
from vram_llm.units import MIB

MAX_IMAGES = 32  # per request, with audio files
MAX_IMAGE_BYTES = 20 * MIB  # per file
MAX_IMAGES_BYTES = 128 * MIB  # per request; counted for each choice, since each sends them to the engine
DETAILS = ("auto", "low", "high", "original")  # all accepted, without effect: a projector knows one size
_ANY_HOST = ("http://", "https://")
_FILE, _THIS_HOST = "file://", "localhost/"


@dataclass(slots=True)
class RequestImages:
    """Collects the images and audio files of a request. `taken`: whether the model accepts images.

    Files are read only below `folder`; None: no files. `kept` maps marks to images; it begins with those of
    an earlier response.
    """

    taken: bool
    folder: Path | None = None
    kept: dict[str, bytes] = field(default_factory=dict)
    takes_audio: bool = False
    _fields: dict[str, str] = field(default_factory=dict)  # the request's field of each mark
    _sounds: set[str] = field(default_factory=set)  # marks of audio files

    def from_url(self, url: object, at: str, send: str = "as a data: URL in base64") -> str:
        """The mark of the image at a data: or file: URL. May block. Raises RequestError naming `at`.

        `send` says how to send an image instead of its web address.
        """
        self._check(at)
        if not isinstance(url, str):
            raise RequestError(f"'{at}' must be a string: a data: URL in base64", at)
        scheme = url[:8].lower()
        if scheme.startswith(_ANY_HOST):
            raise RequestError(
                f"'{at}' is a web address and this server downloads nothing; send the image itself {send}",
                at,
            )
        if scheme.startswith(_FILE):
            return self._add(self._file(url[len(_FILE) :], at), at)
        head, _, data = url.partition(",")
        kind, *options = head[5:].split(";")
        if not (scheme.startswith("data:") and kind.startswith("image/") and "base64" in options):
            raise RequestError(
                f"'{at}' must be a data: URL of an image in base64, as in data:image/png;base64,iVBORw0...",
                at,
            )
        return self.from_base64(data, at)

    def from_base64(self, data: object, at: str) -> str:
        """The mark of an image given in base64. Raises RequestError naming the place `at`."""
        self._check(at)
        return self._add(self._decoded(data, at), at)

    def from_any(self, data: object, at: str) -> str:
        """The mark of an image or audio file given in base64, whose first bytes say which it is.

        Raises RequestError.
        """
        self._check_count(at)
        file = self._decoded(data, at)
        if _is_audio(file):
            return self.add_audio(file, at)
        self._check(at)
        return self._add(file, at)

    def _decoded(self, data: object, at: str) -> bytes:
        if not isinstance(data, str):
            raise RequestError(f"'{at}' must be a string in base64", at)
        self._check_bytes(len(data) * 3 // 4 - 2, at)
        try:
            return base64.b64decode("".join(data.split()), validate=True)
        except (binascii.Error, ValueError):  # ValueError: not ASCII
            raise RequestError(f"'{at}' is not valid base64", at) from None

    def from_audio(self, data: object, at: str) -> str:
        """The mark of an audio file given in base64, or as a data: URL of it. Raises RequestError."""
        self._check_count(at)
        self._check_takes_audio(at)
        if isinstance(data, str) and data[:5].lower() == "data:":
            data = data.partition(",")[2]
        return self.add_audio(self._decoded(data, at), at)

    def add_audio(self, data: bytes, at: str) -> str:
        """The mark of an audio file. Raises RequestError."""
        self._check_takes_audio(at)
        mark = self._add(data, at)
        self._sounds.add(mark)
        return mark

    def joined(self, parts: Iterable[str]) -> str:
        """The text of a message's parts, joined by line ends, except around marks.

        Source: llama.cpp, common/chat.cpp, common_chat_msg::to_json_oaicompat.
        """
        text, after_mark = "", True
        for part in parts:
            is_mark = part in self.kept
            text += part if is_mark or after_mark or not text else f"\n{part}"
            after_mark = is_mark
        return text

    def placed(self, prompt: str) -> tuple[str, tuple[Image, ...]]:
        """The prompt without marks, and its images. Raises RequestError if the template dropped a mark."""
        positions = sorted((prompt.find(mark), mark) for mark in self.kept)
        if any(prompt.count(mark) != 1 for mark in self.kept):
            raise RequestError(
                "The model's chat template leaves out images or sound of these messages", "messages"
            )
        text, images, done = "", [], 0
        for at, mark in positions:
            text += prompt[done:at]
            at_field = self._fields.get(mark, "previous_response_id")
            images.append(Image(len(text), self.kept[mark], at_field, mark in self._sounds))
            done = at + len(mark)
        return text + prompt[done:], tuple(images)

    def within(self, messages: Iterable[dict[str, Any]]) -> "RequestImages":
        """Only the images whose marks are in the messages' texts."""
        texts = [message["content"] or "" for message in messages]
        kept = {mark: data for mark, data in self.kept.items() if any(mark in text for text in texts)}
        return replace(self, kept=kept)

    def _add(self, data: bytes, at: str) -> str:
        self._check_bytes(len(data), at)
        mark = f"[image {secrets.token_hex(16)}]"
        self.kept[mark], self._fields[mark] = data, at
        return mark

    def _check(self, at: str) -> None:
        if not self.taken:
            raise RequestError(
                f"'{at}' is an image and the model is served without a projector; start the server with "
                "--mmproj FILE, the model's own",
                at,
            )
        self._check_count(at)

    def _check_takes_audio(self, at: str) -> None:
        if not self.takes_audio:
            raise RequestError(
                f"'{at}' is sound and the model is served without a projector of sound; serve a model that "
                "has one, with --mmproj FILE",
                at,
            )

    def _check_count(self, at: str) -> None:
        if len(self.kept) >= MAX_IMAGES:
            raise RequestError(f"'{at}' is file {len(self.kept) + 1}; {MAX_IMAGES} is the most", at)

    def _check_bytes(self, n_bytes: int, at: str) -> None:
        if n_bytes > MAX_IMAGE_BYTES:
            raise RequestError(
                f"'{at}' has {n_bytes:,} bytes; {MAX_IMAGE_BYTES:,} is the most for a file", at
            )
        if (together := n_bytes + sum(map(len, self.kept.values()))) > MAX_IMAGES_BYTES:
            raise RequestError(
                f"with '{at}' the files have {together:,} bytes; {MAX_IMAGES_BYTES:,} is the most together",
                at,
            )

    def _file(self, name: str, at: str) -> bytes:
        if self.folder is None:
            raise RequestError(
                f"'{at}' is a file, and files are not read here; start the server with --image-dir DIR, or "
                "send the image itself",
                at,
            )
        folder = self.folder.resolve()
        if name.startswith(_THIS_HOST):
            name = name[len(_THIS_HOST) - 1 :]
        try:
            path = (folder / unquote(name)).resolve()
            if not path.is_relative_to(folder):
                raise RequestError(f"'{at}' lies outside of the directory that --image-dir allows", at)
            # refuse a link made since resolve(), and do not wait for a pipe
            file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            raise RequestError(f"'{at}' is no file in the directory that --image-dir allows", at) from None
        except (OSError, ValueError, RuntimeError):  # no permission; a NUL; links in a circle
            raise RequestError(f"'{at}' cannot be read", at) from None
        try:
            return self._read(file, at)
        except OSError:
            raise RequestError(f"'{at}' cannot be read", at) from None
        finally:
            os.close(file)

    def _read(self, file: int, at: str) -> bytes:
        about = os.fstat(file)
        if not stat.S_ISREG(about.st_mode):  # a device might never end
            raise RequestError(f"'{at}' is no file in the directory that --image-dir allows", at)
        self._check_bytes(about.st_size, at)
        with open(file, "rb", closefd=False) as stream:
            return stream.read(MAX_IMAGE_BYTES + 1)  # the file may have grown


def _is_audio(file: bytes) -> bool:
    """As llama.cpp tells them apart (mtmd-helper.cpp, is_audio_file): WAV, FLAC, MP3."""
    is_wav = file.startswith(b"RIFF") and file[8:12] == b"WAVE"
    is_frame = len(file) > 1 and file[0] == 0xFF and file[1] & 0xE0 == 0xE0
    return is_wav or is_frame or file.startswith((b"fLaC", b"ID3"))


def detail_of(part: dict[str, object], at: str) -> None:
    """Check the `detail` of an image. Raises RequestError."""
    detail = part.get("detail")
    if detail is not None and detail not in DETAILS:
        raise RequestError(f"'{at}.detail' must be one of {', '.join(DETAILS)}", f"{at}.detail")
