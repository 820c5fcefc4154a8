"""Audio files of every kind that is read, and those that promise more than they hold."""

import struct

import pytest

from tests.pictures import png, webp
from tests.sounds import flac, id3, mp3, tone, wav
from vram_llm.llama.multimodal.audio_files import AudioUnreadable, audio_file, is_audio

FRAMES_S = 10 * 1152 / 44_100
LENGTHS = {
    "wav": (wav(tone(440)), 1.0),
    "wav of two channels": (wav(tone(440), n_channels=2), 1.0),
    "wav of another rate": (wav(tone(440, 2, 8000), 8000), 2.0),
    "wav that promises more": (wav(tone(440), promised_bytes=2**32 - 1), 1.0),
    "flac": (flac(tone(440, 1.5)), 1.5),
    "mp3": (mp3(10), FRAMES_S),
    "mp3 between tags": (mp3(10, before=id3(300), after=b"TAG" + bytes(125)), FRAMES_S),
    "mp3 before zeros": (mp3(10, after=bytes(700)), FRAMES_S),
    "mp3 that is cut": (mp3(11)[:-10], FRAMES_S),
}


@pytest.mark.parametrize("name", LENGTHS)
def test_lengths(name: str) -> None:
    data, seconds = LENGTHS[name]
    assert is_audio(data)
    assert audio_file(data).seconds == pytest.approx(seconds)


def test_only_sound_is_left() -> None:
    plain = audio_file(wav(tone(440), promised_bytes=2**32 - 1)).data
    assert plain == audio_file(plain).data
    assert b"LIST" not in plain
    assert struct.unpack_from("<I", plain, 4) == (len(plain) - 8,)
    assert audio_file(mp3(10, before=id3(300), after=b"TAG" + bytes(125))).data == mp3(10)


DAMAGED = "breaks off or is damaged"
REFUSED = {
    "nothing": (b"", "no WAV, MP3 or FLAC"),
    "text": (b"hello, this is text", "no WAV, MP3 or FLAC"),
    "png": (png(1), "no WAV, MP3 or FLAC"),
    "webp": (webp(1), "no WAV, MP3 or FLAC"),
    "ogg": (b"OggS" + bytes(60), "no WAV, MP3 or FLAC"),
    "adpcm": (wav(tone(440), coding=2), "WAV of a compressed kind"),
    "a wide block": (wav(tone(440), block=4096), DAMAGED),
    "no block": (wav(tone(440), block=0), DAMAGED),
    "too many channels": (wav(tone(440)[:99], n_channels=9), "it has 9 channels of 16,000 samples a second"),
    "a low rate": (wav(tone(440), 1), "1 channels of 1 samples a second"),
    "a wav without samples": (wav(tone(440))[:36], DAMAGED),
    "a flac without a header": (b"fLaC", DAMAGED),
    "a flac of no length": (flac(tone(440), promised_samples=0), "does not say how long it is"),
    "a tag alone": (id3(300), DAMAGED),
    "an mp3 with a hole": (mp3(5, after=bytes(9) + mp3(5)), DAMAGED),
    "an mp3 before text": (mp3(5, after=b"some text"), DAMAGED),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    data, why = REFUSED[name]
    with pytest.raises(AudioUnreadable, match=why):
        audio_file(data)
