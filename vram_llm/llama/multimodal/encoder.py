"""Images and sound in prompts, by libmtmd: it decodes them, cuts them into rows, and computes the rows.

A prompt becomes runs of tokens with images or sound between them. libmtmd adds the tokens that a model needs
around them (begin and end tokens, slices of a large image), and cuts sound into pieces, of 30 s in most
models. Rows, positions and masks are those of mtmd_helper_* in
tools/mtmd/mtmd-helper.cpp. If the model's rotary embedding has dimensions for height and width (M-RoPE),
several rows share one position. Some models have no causal mask among the rows of one image.
"""

import ctypes
import os
import weakref
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import llama_cpp.mtmd_cpp as M  # noqa: N812 - the C side

from vram_llm.errors import ModelRefused, NotBuilt
from vram_llm.llama import bindings as b
from vram_llm.llama.bindings import C
from vram_llm.llama.multimodal.audio_files import AudioUnreadable
from vram_llm.llama.multimodal.image_files import ImageUnreadable, check_cost, check_kind, is_webp
from vram_llm.llama.multimodal.webp import webp_pixels, webp_size
from vram_llm.llama.params import FLASH_ATTENTION
from vram_llm.planner.types import FlashAttention

_int_p = ctypes.POINTER(ctypes.c_int)
_Bytes = ctypes.c_char_p


def _declare(name: str, result: object, *arguments: object) -> "ctypes._NamedFuncPointer | None":
    """One of the stb_image functions in libmtmd; None if this build hides it."""
    function = getattr(M._libmtmd, name, None)
    if function is not None:
        function.restype, function.argtypes = result, arguments
    return function


_info = _declare("stbi_info_from_memory", ctypes.c_int, _Bytes, ctypes.c_int, _int_p, _int_p, _int_p)
_load = _declare(
    "stbi_load_from_memory", b.Pointer, _Bytes, ctypes.c_int, _int_p, _int_p, _int_p, ctypes.c_int
)
_free = _declare("stbi_image_free", None, b.Pointer)


class Bitmap:
    """An image's pixels, or with `sizes_only` only its size, to count its rows."""

    def __init__(self, data: bytes, *, sizes_only: bool = False) -> None:
        """`data` is a file: PNG, JPEG, BMP, or the first picture of a GIF or WebP. Raises ImageUnreadable."""
        width, height = size_of(data)
        if sizes_only:
            self._keep(M.mtmd_bitmap_init(width, height, None))
            return
        if is_webp(data):
            lines = ctypes.create_string_buffer(webp_pixels(data, width, height))
            self._keep(M.mtmd_bitmap_init(width, height, _bytes_at(ctypes.addressof(lines))))  # it copies
        else:
            assert _free is not None
            pixels = _pixels(data, width, height)
            self._keep(M.mtmd_bitmap_init(width, height, _bytes_at(pixels)))
            _free(pixels)
        M.mtmd_bitmap_set_id(self.handle, sha256(data).hexdigest().encode())

    def _keep(self, handle: "M.mtmd_bitmap_p | None") -> None:
        self.handle = handle
        weakref.finalize(self, M.mtmd_bitmap_free, handle).atexit = False


class Recording:
    """The samples of an audio file, resampled to the projector's rate, one channel."""

    def __init__(self, data: bytes, mtmd: "M.mtmd_context_p") -> None:
        """`data` is a file as audio_files.audio_file returns it. Raises AudioUnreadable."""
        file = (ctypes.c_uint8 * len(data)).from_buffer_copy(data)
        handle = M.mtmd_helper_bitmap_init_from_buf(mtmd, file, len(data), False)
        if not handle:
            raise AudioUnreadable("the audio breaks off or is damaged")
        self.handle = handle
        weakref.finalize(self, M.mtmd_bitmap_free, handle).atexit = False


def _bytes_at(address: int) -> "ctypes._Pointer[ctypes.c_uint8]":
    return ctypes.cast(address, ctypes.POINTER(ctypes.c_uint8))


def _pixels(data: bytes, width: int, height: int) -> int:
    """The address of 3 bytes for each pixel, to be freed. Raises ImageUnreadable."""
    assert _load is not None
    assert _free is not None
    check_cost(data, width, height)
    x, y, channels = (ctypes.c_int() for _ in range(3))
    pixels = _load(data, len(data), ctypes.byref(x), ctypes.byref(y), ctypes.byref(channels), 3)
    if not pixels:
        raise ImageUnreadable("the image breaks off or is damaged")
    if (x.value, y.value) != (width, height):
        _free(pixels)
        raise ImageUnreadable("the image has not the size that its header promises")
    return int(pixels)


def size_of(data: bytes) -> tuple[int, int]:
    """Width and height in pixels, from the header of an image file. Raises ImageUnreadable."""
    assert _info is not None
    check_kind(data)
    if is_webp(data):
        width, height = webp_size(data)
    else:
        x, y, channels = (ctypes.c_int() for _ in range(3))
        if not _info(data, len(data), ctypes.byref(x), ctypes.byref(y), ctypes.byref(channels)):
            raise ImageUnreadable("its header is damaged")
        width, height = x.value, abs(y.value)  # a BMP that begins with its top line has a height below 0
    if width < 1 or height < 1:
        raise ImageUnreadable(f"it has {width:,} x {height:,} pixels")
    return width, height


class ImageRows:
    """An image, a slice of one, or a piece of sound: `n_rows` rows of a batch over `n_positions` positions.

    `name` is a hash of the file.
    """

    def __init__(self, owner: "_Chunks", chunk: int) -> None:
        self._owner = owner  # keeps `chunk` alive
        self.chunk = chunk
        self.n_rows: int = M.mtmd_input_chunk_get_n_tokens(chunk)
        self.n_positions: int = M.mtmd_input_chunk_get_n_pos(chunk)
        self.name: bytes = M.mtmd_input_chunk_get_id(chunk)


class _Chunks:
    """mtmd_input_chunks, freed with the last object that refers to them."""

    def __init__(self) -> None:
        self.handle = M.mtmd_input_chunks_init()
        weakref.finalize(self, M.mtmd_input_chunks_free, self.handle).atexit = False

    def parts(self) -> "list[list[int] | ImageRows]":
        """The runs of tokens and the images."""
        n = M.mtmd_input_chunks_size(self.handle)
        return [self._part(M.mtmd_input_chunks_get(self.handle, i)) for i in range(n)]

    def _part(self, chunk: int) -> "list[int] | ImageRows":
        if M.mtmd_input_chunk_get_type(chunk) != M.MTMD_INPUT_CHUNK_TYPE_TEXT:
            return ImageRows(self, chunk)
        n_tokens = ctypes.c_size_t()
        tokens = M.mtmd_input_chunk_get_tokens_text(chunk, ctypes.byref(n_tokens))
        return list(tokens[: n_tokens.value])


class ImageReader:
    """A projector, of images or sound, for a loaded model and its context. Call `close` before theirs."""

    def __init__(
        self,
        path: str,
        model: int,
        ctx: int,
        device: int | None,
        *,
        flash_attn: FlashAttention,
        n_threads: int,
    ) -> None:
        """Load the projector on `device`, a handle of ggml's, or for None on the processor.

        Raises ModelRefused, NotBuilt.
        """
        if _info is None or _load is None or _free is None:
            raise NotBuilt("this build of libmtmd hides its image decoder; build it with `make setup`")
        M.mtmd_helper_log_set(b.log_callback(), None)  # this sets it for all of libmtmd
        params = M.mtmd_context_params_default()
        params.use_gpu, params.device = device is not None, device
        params.flash_attn_type = FLASH_ATTENTION[flash_attn]
        params.n_threads, params.print_timings = n_threads, False
        self._mtmd = M.mtmd_init_from_file(os.fsencode(path), model, params)
        if not self._mtmd:
            raise ModelRefused(
                f"llama.cpp will not load {Path(path).name} with this model: "
                f"{b.last_errors() or 'it gives no reason'}"
            )
        self.takes_images: bool = M.mtmd_support_vision(self._mtmd)
        self.takes_audio: bool = M.mtmd_support_audio(self._mtmd)
        self._ctx = ctx
        self._encoded: ImageRows | None = None

    def sees_all_at_once(self, rows: ImageRows) -> bool:
        """Whether these rows attend to each other, so that one micro-batch must hold them."""
        return bool(M.mtmd_decode_use_non_causal(self._mtmd, rows.chunk))

    def recording(self, data: bytes) -> Recording:
        """The samples of an audio file, as audio_files.audio_file returns it. Raises AudioUnreadable."""
        assert self._mtmd is not None
        return Recording(data, self._mtmd)

    def read(
        self, prompt: Sequence[str | Bitmap | Recording], *, add_special: bool
    ) -> list[list[int] | ImageRows]:
        """Tokens and rows of a prompt: text (special tokens parsed), images and sound. Thread-safe.

        Raises ImageUnreadable.
        """
        kept = []
        parts = (ctypes.POINTER(M.mtmd_input_part) * len(prompt))()
        for i, piece in enumerate(prompt):
            part = M.mtmd_input_part()
            if not isinstance(piece, str):
                part.bitmap = piece.handle
            else:
                data = piece.encode("utf-8", "replace")
                text = M.mtmd_input_text(data, len(data), False, True)
                part.text = ctypes.pointer(text)
            kept.append(part)
            parts[i] = ctypes.pointer(part)
        chunks = _Chunks()
        if M.mtmd_tokenize_from_parts(self._mtmd, chunks.handle, parts, len(prompt), add_special):
            raise ImageUnreadable("the projector cannot take one of this size or shape")
        return chunks.parts()

    def has_encoded(self, image: ImageRows) -> bool:
        """Whether this image was encoded last, so that `decode` can compute it."""
        return self._encoded is image

    def encode(self, image: ImageRows) -> bool:
        """Run the projector over an image; its output stays until the next image. False: it failed."""
        self._encoded = None
        if M.mtmd_encode_chunk(self._mtmd, image.chunk):
            return False
        self._encoded = image
        return True

    def decode(
        self,
        image: ImageRows,
        position: int,
        sequence: int,
        note_batch: Callable[[int], None] | None = None,
    ) -> int:
        """Compute the encoded image's rows in a sequence of the context, from `position` on.

        The result is llama_decode's: 0, or 1 if there was no room; then some of its cells may be taken.
        `note_batch` is called after each batch, with the number of its rows.
        """
        assert self._encoded is image
        end = C.llama_pos(position)

        def note(batch: Any, _: object) -> int:
            assert note_batch is not None
            note_batch(batch.contents.n_tokens)
            return 0

        return int(
            M.mtmd_helper_decode_image_chunk(
                self._mtmd,
                self._ctx,
                image.chunk,
                M.mtmd_get_output_embd(self._mtmd),
                position,
                sequence,
                C.llama_n_batch(self._ctx),
                ctypes.byref(end),
                M.mtmd_helper_post_decode_callback(note if note_batch is not None else 0),
                None,
            )
        )

    def close(self) -> None:
        """Free the projector. Once only."""
        M.mtmd_free(self._mtmd)
