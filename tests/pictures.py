"""Small image files, written without a library."""

import struct
import zlib

import numpy as np


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
