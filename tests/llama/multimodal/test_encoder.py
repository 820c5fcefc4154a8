"""Image files of every kind that is read, and those that would cost more than they claim."""

import ctypes
import struct
import zlib

import numpy as np
import numpy.typing as npt
import pytest
from llama_cpp import mtmd_cpp as M  # noqa: N812 - the C side

from tests.pictures import bmp, gif, png, png_of, webp
from vram_llm.llama.multimodal.encoder import Bitmap, size_of
from vram_llm.llama.multimodal.image_files import MAX_SCANS, ImageUnreadable, check_cost


def pixels_of(data: bytes) -> npt.NDArray[np.uint8]:
    """Height x width x 3."""
    bitmap = Bitmap(data)
    width, height = M.mtmd_bitmap_get_nx(bitmap.handle), M.mtmd_bitmap_get_ny(bitmap.handle)
    pixels = ctypes.string_at(M.mtmd_bitmap_get_data(bitmap.handle), width * height * 3)
    return np.frombuffer(pixels, np.uint8).reshape(height, width, 3)


def png_with(depth: int, colour: int, interlaced: int, lines: bytes) -> bytes:
    """A PNG of 9 x 5 pixels with such a header."""
    plain = png_of(9, 5, zlib.compress(lines))
    header = b"IHDR" + struct.pack(">IIBBBBB", 9, 5, depth, colour, 0, 0, interlaced)
    return plain[:12] + header + struct.pack(">I", zlib.crc32(header)) + plain[33:]


@pytest.mark.parametrize("top_down", [False, True])
def test_a_bmp_from_either_end(top_down: bool) -> None:
    pixels = pixels_of(bmp(50, 30, top_down=top_down))
    assert pixels.shape == (30, 50, 3)
    assert pixels[7, 25].tolist() == [0, 0, 127]
    assert size_of(bmp(50, 30, top_down=top_down)) == (50, 30)


def test_a_gif() -> None:
    pixels = pixels_of(gif(50, 30))
    assert pixels.shape == (30, 50, 3)
    assert pixels[7, 25].tolist() == [64, 64, 64]


INTERLACED = ((2, 1), (1, 1), (3, 1), (2, 2), (5, 1), (4, 3), (9, 2))  # width and lines of each pass of 9 x 5


def test_pngs_of_all_kinds() -> None:
    assert pixels_of(png(1)).shape == (40, 60, 3)
    assert pixels_of(png_with(1, 0, 0, b"\0\xff\xff" * 5)).min() == 255
    assert pixels_of(png_with(16, 6, 0, (b"\0" + b"\xff" * 72) * 5)).min() == 255
    passes = b"".join((b"\0" + b"\xff" * 8 * width) * n_lines for width, n_lines in INTERLACED)
    assert pixels_of(png_with(16, 6, 1, passes)).min() == 255


WEBPS = {
    "lossless": (webp(1), b"VP8L"),
    "with transparency": (webp(1, mode="RGBA"), b"VP8L"),
    "an animation": (webp(1, 2), b"VP8X"),
    "an animation with transparency": (webp(1, 2, mode="RGBA"), b"VP8X"),
}


@pytest.mark.parametrize("name", WEBPS)
def test_a_webp_has_the_pixels_of_the_png(name: str) -> None:
    data, kind = WEBPS[name]
    assert data[12:16] == kind
    assert size_of(data) == (60, 40)
    assert np.array_equal(pixels_of(data), pixels_of(png(1)))


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_a_lossy_webp_is_alike(mode: str) -> None:
    """With transparency its header is another one."""
    data = webp(1, mode=mode, lossless=False, width=61)
    assert data[12:16] == (b"VP8 " if mode == "RGB" else b"VP8X")
    assert size_of(data) == (61, 40)
    difference = pixels_of(data).astype(int) - pixels_of(png(1, width=61))
    assert np.abs(difference).mean() < 20


def webp_as_large_as(side: int) -> bytes:
    """A WebP whose header promises an animation of that size."""
    size = (side - 1).to_bytes(3, "little")
    return b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0\2\0\0\0" + size + size


REFUSED = {
    "a 0x0 gif": (gif(0, 0), "it has 0 x 0 pixels"),
    "hdr": (
        b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 4 +X 4\n" + bytes(64),
        "it is no PNG, JPEG, GIF, BMP or WebP",
    ),
    "psd": (
        b"8BPS" + struct.pack(">H6xHIIHH", 1, 3, 4, 4, 8, 3) + bytes(80),
        "it is no PNG, JPEG, GIF, BMP or WebP",
    ),
    "an empty header": (b"\x89PNG\r\n\x1a\n", "its header is damaged"),
    "a bomb": (png_of(8, 8, zlib.compress(bytes(50_000_000))), "it is a PNG that holds more than the pixels"),
    "no end": (png_of(8, 8, zlib.compress(bytes(200))[:-6]), "breaks off or is damaged"),
    "not deflate": (png_of(8, 8, b"x" * 99), "breaks off or is damaged"),
    "too few lines": (png_of(8, 8, zlib.compress(bytes(9))), "breaks off or is damaged"),
    "a cut webp": (webp(1)[:200], "breaks off or is damaged"),
    "a webp that is text": (webp(1)[:20] + b"x" * 90, "its header is damaged"),
    "a webp that ends": (webp(1)[:18], "its header is damaged"),
    "a webp without pictures": (webp_as_large_as(4), "breaks off or is damaged"),
    "for iphones": (png(1)[:33] + struct.pack(">I", 4) + b"CgBI" + bytes(8) + png(1)[33:], "plain one"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    data, why = REFUSED[name]
    with pytest.raises(ImageUnreadable, match=why):
        Bitmap(data)


def test_a_jpeg_of_too_many_scans() -> None:
    scan = b"\xff\xda\0\0"
    check_cost(b"\xff\xd8\xff" + MAX_SCANS * scan, 8, 8)
    with pytest.raises(ImageUnreadable, match="JPEG of 101 scans; 100 is the most"):
        check_cost(b"\xff\xd8\xff" + (MAX_SCANS + 1) * scan, 8, 8)
