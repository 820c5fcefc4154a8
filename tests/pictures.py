"""Small image files, written without a library, but for WebP."""

import struct
import zlib
from io import BytesIO

import numpy as np
from PIL import Image


def png(seed: int, width: int = 60, height: int = 40) -> bytes:
    """A PNG of random colours in blocks, another one for each seed."""
    blocks = np.random.default_rng(seed).integers(0, 255, (4, 6, 3), dtype=np.uint8)
    rows, columns = np.arange(height) * 4 // height, np.arange(width) * 6 // width
    lines = b"".join(b"\0" + line.tobytes() for line in blocks[rows][:, columns])
    return png_of(width, height, zlib.compress(lines))


def png_of(width: int, height: int, pixels: bytes) -> bytes:
    """A PNG whose header promises that size, whatever its compressed `pixels` hold."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", pixels), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def bmp(width: int, height: int, *, top_down: bool = False) -> bytes:
    """A BMP, dark where its lines begin and blue from there; stored from the lowest line up, or not."""
    lines = bytes(value for x in range(width) for value in (255 * x // width, 0, 0)) + bytes(-3 * width % 4)
    header = struct.pack("<IiiHHIIiiII", 40, width, -height if top_down else height, 1, 24, 0, 0, 0, 0, 0, 0)
    pixels = lines * height
    return b"BM" + struct.pack("<IHHI", 54 + len(pixels), 0, 0, 54) + header + pixels


def gif(width: int, height: int) -> bytes:
    """A GIF in 128 greys. Its code is cleared so often that each pixel keeps its 8 bits."""
    palette = bytes(2 * (i // 3) for i in range(3 * 128))
    pixels = bytes((x + y) % 128 for y in range(height) for x in range(width))
    codes = b"".join(b"\x80" + pixels[i : i + 100] for i in range(0, len(pixels), 100)) + b"\x81"
    blocks = b"".join(
        bytes([len(part)]) + part for part in (codes[i : i + 255] for i in range(0, len(codes), 255))
    )
    screen = struct.pack("<HHBBB", width, height, 0xF6, 0, 0)
    frame = b"," + struct.pack("<HHHHB", 0, 0, width, height, 0)
    return b"GIF89a" + screen + palette + frame + b"\x07" + blocks + b"\0;"


def webp(*seeds: int, width: int = 60, height: int = 40, mode: str = "RGB", lossless: bool = True) -> bytes:
    """A WebP of the pixels of such PNGs, an animation if there are several. RGBA: half transparent."""
    pictures = [Image.open(BytesIO(png(seed, width, height))).convert(mode) for seed in seeds]
    if mode == "RGBA":
        for picture in pictures:
            picture.putalpha(128)
    file = BytesIO()
    pictures[0].save(
        file, "WEBP", lossless=lossless, exact=True, save_all=len(pictures) > 1, append_images=pictures[1:]
    )
    return file.getvalue()
