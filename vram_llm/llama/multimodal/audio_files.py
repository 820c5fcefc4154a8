"""Checks audio files before they are decoded: their format, and how long they are.

miniaudio, within libmtmd, takes memory for as many samples as a file promises before it decodes one. So the
length is found here first: WAV and FLAC state it, of an MP3 the frames are counted. miniaudio then gets a
file that holds no more than was counted.

Sources: RFC 9639 (FLAC); Microsoft's WAVEFORMATEX; ISO/IEC 11172-3 and 13818-3 (MPEG layer III).
"""

import struct
from dataclasses import dataclass

from vram_llm.errors import VramLLMError

_LEAST_RATE, _MOST_RATE = 4_000, 384_000  # samples per second and channel
_MOST_CHANNELS = 8
_FLAC = b"fLaC"
_PCM, _FLOAT, _ALAW, _MULAW, _EXTENSIBLE = 1, 3, 6, 7, 0xFFFE  # of WAVEFORMATEX
_KBIT_1 = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)  # of MPEG 1, by index
_KBIT_2 = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)  # of MPEG 2 and 2.5
_RATES = (44_100, 48_000, 32_000)  # of MPEG 1; MPEG 2 has halves, 2.5 quarters
_TAGS = (b"TAG", b"APETAGEX", b"LYRICSBEGIN", b"ID3", b"3DI")  # after an MP3's frames


class AudioUnreadable(VramLLMError):
    """The bytes are no audio file, or one that this projector cannot take."""


@dataclass(frozen=True, slots=True)
class AudioFile:
    """A WAV, MP3 or FLAC file, without what is not sound, and its length."""

    data: bytes
    seconds: float


def is_audio(data: bytes) -> bool:
    """Whether a file begins as WAV, MP3 or FLAC do."""
    is_wav = data.startswith(b"RIFF") and data[8:12] == b"WAVE"
    return is_wav or data.startswith((_FLAC, b"ID3")) or _frame(data, 0) is not None


def audio_file(data: bytes) -> AudioFile:
    """The audio file in `data`. Raises AudioUnreadable."""
    if not is_audio(data):
        raise AudioUnreadable("it is no WAV, MP3 or FLAC")
    if data.startswith(b"RIFF"):
        return _wav(data)
    return _flac(data) if data.startswith(_FLAC) else _mp3(data)


def _wav(data: bytes) -> AudioFile:
    """Its format and samples alone. Programs that write to a pipe promise more samples than they write."""
    form = None
    at = 12
    while at + 8 <= len(data):
        kind, n_bytes = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        if kind == b"fmt ":
            form = data[at + 8 : at + 8 + n_bytes]
        elif kind == b"data" and form is not None and len(form) >= 16:
            samples = data[at + 8 : at + 8 + n_bytes]
            return _wav_of(form, samples)
        at += 8 + n_bytes + n_bytes % 2
    raise AudioUnreadable("the audio breaks off or is damaged")


def _wav_of(form: bytes, samples: bytes) -> AudioFile:
    coding, n_channels, rate, _, block, _ = struct.unpack_from("<HHIIHH", form)
    if coding not in (_PCM, _FLOAT, _ALAW, _MULAW, _EXTENSIBLE):
        raise AudioUnreadable("it is a WAV of a compressed kind; send PCM, MP3 or FLAC")
    _check_form(n_channels, rate)
    if not n_channels <= block <= 8 * n_channels:
        raise AudioUnreadable("the audio breaks off or is damaged")
    samples = samples[: len(samples) // block * block]
    form += bytes(len(form) % 2)
    head = b"WAVEfmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", len(samples))
    body = head + samples
    return AudioFile(b"RIFF" + struct.pack("<I", len(body)) + body, len(samples) // block / rate)


def _flac(data: bytes) -> AudioFile:
    """As it is: the length is in its first block, which miniaudio reads too."""
    facts = data[8:26]
    if len(facts) < 18 or data[4] & 0x7F:
        raise AudioUnreadable("the audio breaks off or is damaged")
    packed = int.from_bytes(facts[10:18])  # rate: 20 bits, channels - 1: 3, bits - 1: 5, samples: 36
    rate, n_channels, n_samples = packed >> 44, (packed >> 41 & 7) + 1, packed & (2**36 - 1)
    _check_form(n_channels, rate)
    if not n_samples:
        raise AudioUnreadable("it is a FLAC whose header does not say how long it is; encode it anew")
    return AudioFile(data, n_samples / rate)


def _mp3(data: bytes) -> AudioFile:
    """Its frames, which follow each other without a gap, and nothing else."""
    start = 0
    while data[start : start + 3] == b"ID3" and len(data) >= start + 10:
        size = data[start + 6 : start + 10]  # seven bits a byte
        start += 10 + (size[0] << 21 | size[1] << 14 | size[2] << 7 | size[3])
    at, seconds, first_rate = start, 0.0, 0
    while (frame := _frame(data, at)) is not None:
        n_bytes, n_samples, rate = frame
        if at + n_bytes > len(data) or rate != (first_rate or rate):
            break
        first_rate = rate
        at += n_bytes
        seconds += n_samples / rate
    rest = data[at:]
    is_end = len(rest) < 4 or rest.startswith(_TAGS) or not rest.strip(b"\0")
    is_cut = frame is not None and frame[2] == first_rate and at + frame[0] > len(data)
    if at == start or not (is_end or is_cut):
        raise AudioUnreadable("the audio breaks off or is damaged")
    return AudioFile(data[start:at], seconds)


def _frame(data: bytes, at: int) -> tuple[int, int, int] | None:
    """Bytes, samples and rate of the MPEG layer III frame at that place; None: there is none."""
    head = data[at : at + 4]
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE6 != 0xE2:
        return None
    version, coding, rate_index = head[1] >> 3 & 3, head[2] >> 4, head[2] >> 2 & 3
    if version == 1 or not 0 < coding < 15 or rate_index == 3:
        return None
    is_first = version == 3
    rate = _RATES[rate_index] >> (0 if is_first else 1 if version == 2 else 2)
    bits_per_s = 1000 * (_KBIT_1 if is_first else _KBIT_2)[coding]
    n_samples = 1152 if is_first else 576
    return n_samples // 8 * bits_per_s // rate + (head[2] >> 1 & 1), n_samples, rate


def _check_form(n_channels: int, rate: int) -> None:
    """Raises AudioUnreadable."""
    if not (1 <= n_channels <= _MOST_CHANNELS and _LEAST_RATE <= rate <= _MOST_RATE):
        raise AudioUnreadable(
            f"it has {n_channels} channels of {rate:,} samples a second; {_MOST_CHANNELS} and "
            f"{_LEAST_RATE:,} to {_MOST_RATE:,} are taken"
        )
