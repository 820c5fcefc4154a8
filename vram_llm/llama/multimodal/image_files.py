"""Checks image files before they are decoded: their format, and whether decoding costs more than they claim.

stb_image trusts them in more than it should: it inflates all of a PNG whatever size the header promises, and
goes over all of a JPEG's picture once for each of its scans.
"""

import zlib

from vram_llm.errors import VramLLMError

MAX_SCANS = 100  # of a JPEG; a progressive one has about ten
_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
_FIRST_BYTES = (_PNG, _JPEG, b"GIF87a", b"GIF89a", b"BM")
_START_OF_SCAN = b"\xff\xda"
_PIECE = 2**14  # of compressed bytes, which inflate to 1,032 times as many at most


class ImageUnreadable(VramLLMError):
    """The bytes are no image, or one that this projector cannot take."""


def check_kind(data: bytes) -> None:
    """Check a file's first bytes. Raises ImageUnreadable."""
    if not (data.startswith(_FIRST_BYTES) or is_webp(data)):
        raise ImageUnreadable("it is no PNG, JPEG, GIF, BMP or WebP")


def is_webp(data: bytes) -> bool:
    """Whether a file begins as a WebP does."""
    return data.startswith(b"RIFF") and data[8:12] == b"WEBP"


def check_cost(data: bytes, width: int, height: int) -> None:
    """Check a file whose header has that many pixels. Raises ImageUnreadable."""
    if data.startswith(_PNG):
        _check_inflated(
            data, 8 * (width + 1) * (height + 1)
        )  # 4 channels of 16 bits, and a byte for each line
    elif data.startswith(_JPEG) and (n_scans := data.count(_START_OF_SCAN)) > MAX_SCANS:
        raise ImageUnreadable(f"it is a JPEG of {n_scans:,} scans; {MAX_SCANS} is the most, so save it anew")


def _check_inflated(data: bytes, most: int) -> None:
    """Check that a PNG's pixels inflate to at most `most` bytes. Raises ImageUnreadable."""
    packed = _packed_pixels(data)
    inflating, n_bytes = zlib.decompressobj(), 0
    try:
        for start in range(0, len(packed), _PIECE):
            n_bytes += len(inflating.decompress(packed[start : start + _PIECE]))
            if n_bytes > most:
                raise ImageUnreadable("it is a PNG that holds more than the pixels its header promises")
            if inflating.eof:
                return
    except zlib.error:
        pass
    raise ImageUnreadable("the image breaks off or is damaged")


def _packed_pixels(data: bytes) -> bytes:
    """The IDAT chunks of a PNG, joined."""
    parts = []
    at = len(_PNG)
    while at + 8 <= len(data) and (kind := data[at + 4 : at + 8]) != b"IEND":
        end = at + 8 + int.from_bytes(data[at : at + 4])
        if kind == b"CgBI":  # pixels without zlib's header
            raise ImageUnreadable("it is a PNG as iPhones have them inside; save it as a plain one")
        if kind == b"IDAT":
            parts.append(data[at + 8 : end])
        at = end + 4
    return b"".join(parts)
