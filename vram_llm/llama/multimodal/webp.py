"""WebP files, which stb_image does not read: Pillow decodes them, after a look at the size in the header.

libwebp allocates the canvas before it decodes anything, so the size is read here first. Its decoders work for
as many pixels as the header promises. Of an animation the first picture is taken, as of a GIF. Transparency
is dropped, as stb_image drops it.

Source: developers.google.com/speed/webp/docs/riff_container, webp_lossless_bitstream_specification; RFC 6386.
"""

from io import BytesIO

from vram_llm.llama.multimodal.image_files import ImageUnreadable

_LOSSY_START = b"\x9d\x01\x2a"
_LOSSLESS_START = 0x2F
_BITS = 0x3FFF  # of a width or height, 14


def webp_size(data: bytes) -> tuple[int, int]:
    """Width and height in pixels, from the header of a WebP file. Raises ImageUnreadable."""
    kind, chunk = data[12:16], data[20:30]
    if len(chunk) == 10:
        if kind == b"VP8X":
            return _number(chunk[4:7]) + 1, _number(chunk[7:10]) + 1
        if kind == b"VP8L" and chunk[0] == _LOSSLESS_START:
            sizes = _number(chunk[1:5])
            return (sizes & _BITS) + 1, (sizes >> 14 & _BITS) + 1
        if kind == b"VP8 " and chunk[3:6] == _LOSSY_START:
            return _number(chunk[6:8]) & _BITS, _number(chunk[8:10]) & _BITS
    raise ImageUnreadable("its header is damaged")


def webp_pixels(data: bytes, width: int, height: int) -> bytes:
    """3 bytes for each pixel of a WebP file of that size, line by line. Raises ImageUnreadable."""
    from PIL import Image  # takes 20 ms, and few engines read a WebP

    try:
        with Image.open(BytesIO(data), formats=("WEBP",)) as image:
            size, pixels = image.size, image.convert("RGB").tobytes()
    except (OSError, EOFError, SyntaxError, ValueError):
        raise ImageUnreadable("the image breaks off or is damaged") from None
    if size != (width, height):
        raise ImageUnreadable("the image has not the size that its header promises")
    return pixels


def _number(data: bytes) -> int:
    return int.from_bytes(data, "little")
