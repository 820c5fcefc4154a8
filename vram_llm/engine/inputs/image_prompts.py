"""Prompts with images or sound: a thread reads their files and makes ids for their rows.

Among a sequence's tokens, each row of an image or sound has an id below 0 made of a hash of the file: equal
files at the same place have equal ids, different ones different ids. llama.cpp never gets these ids.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from typing import TypeVar

from vram_llm.engine.inputs.tokenize import PromptTokenizer
from vram_llm.engine.request import Image, Request
from vram_llm.engine.sequence import ImageSpan
from vram_llm.errors import RequestError
from vram_llm.llama.multimodal.audio_files import AudioFile, AudioUnreadable, audio_file
from vram_llm.llama.multimodal.encoder import Bitmap, ImageReader, ImageRows, Recording, size_of
from vram_llm.llama.multimodal.image_files import ImageUnreadable

T = TypeVar("T")
MAX_PIXELS = 40_000_000  # of all images of a request; reading takes a few times 3 bytes for each
MAX_AUDIO_S = 1800.0  # of all audio files of a request; reading takes some 150 KB a second
_LEAST_AUDIO_S = 0.1


@dataclass(frozen=True, slots=True)
class TokenizedPrompt:
    """A prompt's tokens, with ids below 0 for the rows of `images`."""

    tokens: list[int]
    images: tuple[ImageSpan, ...] = ()


class ImagePrompts:
    """Reads prompts with images for a model with a projector, one at a time."""

    def __init__(self, reader: ImageReader, tokenizer: PromptTokenizer, n_ubatch: int) -> None:
        self._reader = reader
        self._tokenizer = tokenizer
        self._max_rows = n_ubatch
        self._reading = ThreadPoolExecutor(1, "images")
        self._last: tuple[Request, Future[TokenizedPrompt]] | None = None  # `n` choices share a prompt

    def read(self, request: Request) -> "Future[TokenizedPrompt]":
        """A future of the prompt, or of the RequestError that refuses it."""
        if self._last is not None and _shares_images(self._last[0], request):
            return self._last[1]
        reading = self._reading.submit(self._read, request)
        self._last = (request, reading)
        return reading

    def submit(self, work: Callable[[], T]) -> "Future[T]":
        """Start `work` in the thread that reads images."""
        return self._reading.submit(work)

    def forget(self) -> None:
        """Drop the last request, which may hold many megabytes."""
        self._last = None

    def count(self, text: str, images: Sequence[Image], *, add_special: bool) -> list[int]:
        """The tokens of a prompt, -1 for each row, without decoding images. Raises RequestError."""
        parts = self._parts(text, images, sizes_only=True, add_special=add_special)
        return [token for part in parts for token in (part if isinstance(part, list) else [-1] * part.n_rows)]

    def _read(self, request: Request) -> TokenizedPrompt:
        assert isinstance(request.prompt, str)
        tokens: list[int] = []
        spans: list[ImageSpan] = []
        for part in self.parts(request.prompt, request.images, add_special=request.add_bos):
            if isinstance(part, list):
                tokens += part
                continue
            spans.append(ImageSpan(len(tokens), part.n_rows, part.n_positions, part))
            tokens += [_id_of(part.name, len(spans))] * part.n_rows
        if spans and spans[-1].start + spans[-1].count == len(tokens):
            raise RequestError("a prompt cannot end with an image or sound; put text after it", "messages")
        self._tokenizer.check_room(tokens)
        return TokenizedPrompt(tokens, tuple(spans))

    def parts(self, text: str, images: Sequence[Image], *, add_special: bool) -> list[list[int] | ImageRows]:
        """The runs of tokens and the images of a prompt. Raises RequestError, ContextExceeded."""
        self._tokenizer.check_length(text)
        parts = self._parts(text, images, add_special=add_special)
        for part in parts:
            if isinstance(part, list) or part.n_rows <= self._max_rows:
                continue
            if self._reader.sees_all_at_once(part):
                raise RequestError(
                    f"an image or sound comes to {part.n_rows:,} rows, which this model has to see at once, "
                    f"and a micro-batch holds {self._max_rows:,}; serve with --n-ubatch {part.n_rows}",
                    images[0].field,
                )
        return parts

    def _parts(
        self, text: str, images: Sequence[Image], *, add_special: bool, sizes_only: bool = False
    ) -> list[list[int] | ImageRows]:
        recordings = iter(check_media(images))
        parts: list[str | Bitmap | Recording] = []
        done = 0
        for image in images:
            try:
                media = (
                    self._reader.recording(next(recordings).data)
                    if image.is_audio
                    else Bitmap(image.data, sizes_only=sizes_only)
                )
            except (ImageUnreadable, AudioUnreadable) as error:
                raise _refused(image, error) from None
            parts += [text[done : image.at], media]
            done = image.at
        try:
            return self._reader.read(
                [part for part in (*parts, text[done:]) if part], add_special=add_special
            )
        except ImageUnreadable as error:
            raise _refused(images[0], error) from None


def check_media(images: Sequence[Image]) -> list[AudioFile]:
    """Check the sizes of a request's images and sound, and return its sound. Raises RequestError."""
    _check_sizes([image for image in images if not image.is_audio])
    return _checked_audio([image for image in images if image.is_audio])


def _check_sizes(images: Sequence[Image]) -> None:
    """Check image sizes by the files' headers, before any pixel is decoded. Raises RequestError."""
    n_pixels = 0
    for image in images:
        try:
            width, height = size_of(image.data)
        except ImageUnreadable as error:
            raise _refused(image, error) from None
        n_pixels += width * height
        if n_pixels > MAX_PIXELS:
            raise RequestError(
                f"'{image.field}' has {width:,} x {height:,} pixels; the images of a request may have "
                f"{MAX_PIXELS:,} together, so send smaller ones",
                image.field,
            )


def _checked_audio(recordings: Sequence[Image]) -> list[AudioFile]:
    """Audio files, whose lengths are checked before any is decoded. Raises RequestError."""
    files: list[AudioFile] = []
    for recording in recordings:
        try:
            files.append(audio_file(recording.data))
        except AudioUnreadable as error:
            raise _refused(recording, error) from None
        if files[-1].seconds < _LEAST_AUDIO_S:
            raise RequestError(
                f"'{recording.field}' is {files[-1].seconds:.2f} s long; {_LEAST_AUDIO_S:g} s is the least",
                recording.field,
            )
        if (seconds := sum(file.seconds for file in files)) > MAX_AUDIO_S:
            raise RequestError(
                f"with '{recording.field}' the sound is {seconds:,.0f} s long; {MAX_AUDIO_S:,.0f} s is the "
                "most for a request, so send it in parts",
                recording.field,
            )
    return files


def _refused(image: Image, error: ImageUnreadable | AudioUnreadable) -> RequestError:
    return RequestError(f"'{image.field}' cannot be read: {error}", image.field)


def _id_of(name: bytes, number: int) -> int:
    """The id of all rows of an image or slice, the prompt's `number`th."""
    return -1 - int.from_bytes(sha256(name + number.to_bytes(4)).digest()[:16])


def _shares_images(one: Request, other: Request) -> bool:
    return (one.prompt, one.add_bos, one.images) == (other.prompt, other.add_bos, other.images)
