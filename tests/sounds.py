"""Small audio files, written without a library."""

import struct

import numpy as np
import numpy.typing as npt

RATE = 16_000


def tone(hertz: float, seconds: float = 1.0, rate: int = RATE) -> npt.NDArray[np.int16]:
    """A tone's samples."""
    at = np.arange(int(seconds * rate)) / rate
    return (12_000 * np.sin(2 * np.pi * hertz * at)).astype(np.int16)


def wav(
    samples: npt.NDArray[np.int16],
    rate: int = RATE,
    *,
    coding: int = 1,
    n_channels: int = 1,
    promised_bytes: int | None = None,
    block: int | None = None,
) -> bytes:
    """A WAV of 16 bits, with a comment before its samples. Its header may promise more than there is."""
    data = np.repeat(samples, n_channels).tobytes()
    block = 2 * n_channels if block is None else block
    form = struct.pack("<HHIIHH", coding, n_channels, rate, rate * block, block, 16)
    n_bytes = len(data) if promised_bytes is None else promised_bytes
    chunks = b"fmt " + struct.pack("<I", 16) + form + b"LIST\x03\0\0\0abc\0"
    chunks += b"data" + struct.pack("<I", n_bytes) + data
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


def mp3(n_frames: int, *, before: bytes = b"", after: bytes = b"") -> bytes:
    """An MP3 of silence at 44,100 Hz: frames of 1,152 samples, whose bits are all 0."""
    return before + n_frames * (b"\xff\xfb\x90\xc4" + bytes(413)) + after


def id3(n_bytes: int) -> bytes:
    """A tag before an MP3."""
    return b"ID3\x03\0\0" + bytes((0, 0, n_bytes >> 7, n_bytes & 0x7F)) + bytes(n_bytes)


def flac(samples: npt.NDArray[np.int16], rate: int = RATE, *, promised_samples: int | None = None) -> bytes:
    """A FLAC of 16 bits and one channel, uncompressed, in blocks of 4,096 samples."""
    n_samples = len(samples) if promised_samples is None else promised_samples
    size = 4096
    facts = struct.pack(">HH", size, size) + bytes(6)
    facts += (rate << 44 | 15 << 36 | n_samples).to_bytes(8) + bytes(16)
    frames = b""
    for number, start in enumerate(range(0, len(samples), size)):
        block = samples[start : start + size]
        head = b"\xff\xf8\x70\x08" + bytes([number]) + (len(block) - 1).to_bytes(2)
        frame = head + bytes([_crc(head, 8, 0x07)]) + b"\x02" + block.astype(">i2").tobytes()
        frames += frame + _crc(frame, 16, 0x8005).to_bytes(2)
    return b"fLaC\x80" + len(facts).to_bytes(3) + facts + frames


def _crc(data: bytes, n_bits: int, polynomial: int) -> int:
    value, top = 0, 1 << n_bits - 1
    for byte in data:
        value ^= byte << n_bits - 8
        for _ in range(8):
            value = (value << 1 ^ (polynomial if value & top else 0)) & ((1 << n_bits) - 1)
    return value
