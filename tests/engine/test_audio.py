"""Sound in the engine's loop, with real projectors: the answers of libmtmd's helper, and refusals."""

import ctypes
import gc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from llama_cpp import mtmd_cpp as M  # noqa: N812 - the C side

from tests.companions import write_ears, write_eyes_and_ears
from tests.engine.harness import EXACT, empty, loaded, make_request, run, tokens_of, write_f32
from tests.pictures import png
from tests.sounds import flac, id3, mp3, tone, wav
from vram_llm.engine.inputs.image_prompts import MAX_AUDIO_S
from vram_llm.engine.loop import Loop
from vram_llm.engine.request import FinishReason, Image, Request, TokenEvent
from vram_llm.llama.model import LoadedModel
from vram_llm.machine.types import Host, Machine
from vram_llm.planner.types import Plan, Workload
from vram_llm.workflows import planning

pytestmark = pytest.mark.process

BEFORE, AFTER = "What is said here? ", " Write it."
ROWS = {"ultravox": 47, "qwen2a": 750}  # for each 30 s that have begun
ROUNDING = 2e-5  # of one answer's logarithms of probabilities, see test_images


@pytest.fixture(scope="module", params=ROWS)
def plan(request: pytest.FixtureRequest, host: Host, tmp_path_factory: pytest.TempPathFactory) -> Plan:
    folder = tmp_path_factory.mktemp("ears")
    mmproj = write_ears(folder / f"{request.param}.gguf", kind=request.param)
    wish = Workload(
        n_ctx=2048, parallel=2, reserve_bytes=0, n_batch=256, n_ubatch=64, mmproj=str(mmproj), **EXACT
    )
    return planning.plan(str(write_f32(folder / "f32.gguf")), Machine(devices=(), host=host), wish)


@pytest.fixture(scope="module")
def n_rows(plan: Plan) -> int:
    """The rows of 30 s."""
    return ROWS[Path(plan.companions[0].path).stem]


@pytest.fixture(scope="module")
def model(plan: Plan) -> Iterator[LoadedModel]:
    with loaded(plan) as model:
        yield model
        gc.collect()


@pytest.fixture
def loop(model: LoadedModel) -> Iterator[Loop]:
    loop = Loop(model)
    yield loop
    assert loop.is_idle
    empty(loop)


def heard(name: str, *sounds: bytes, **options: Any) -> Request:
    """A request with sounds in the middle of its prompt."""
    files = tuple(Image(len(BEFORE), sound, f"sounds[{i}]", True) for i, sound in enumerate(sounds))
    return make_request(name, BEFORE + AFTER, max_tokens=8, images=files, **options)


def answer(loop: Loop, request: Request) -> list[TokenEvent]:
    (events,) = run(loop, request).values()
    return events


def by_the_helper(model: LoadedModel, sound: bytes) -> npt.NDArray[np.float64]:
    """The logarithms of probabilities after the prompt of `heard`, as libmtmd's helper leaves them."""
    assert model.images is not None
    model.forget(0)
    mtmd, text = model.images._mtmd, BEFORE.encode() + M.mtmd_default_marker() + AFTER.encode()
    file = (ctypes.c_uint8 * len(sound)).from_buffer_copy(sound)
    bitmap = M.mtmd_helper_bitmap_init_from_buf(mtmd, file, len(sound), False)
    chunks = M.mtmd_input_chunks_init()
    asked = M.mtmd_input_text(text, len(text), True, True)
    assert M.mtmd_tokenize(mtmd, chunks, ctypes.byref(asked), (ctypes.c_void_p * 1)(bitmap), 1) == 0
    end = ctypes.c_int32()
    assert M.mtmd_helper_eval_chunks(mtmd, model.ctx, chunks, 0, 0, 64, True, ctypes.byref(end)) == 0
    M.mtmd_input_chunks_free(chunks)
    M.mtmd_bitmap_free(bitmap)
    logits = model.logits(-1).astype(np.float64)
    model.forget(0)
    return np.asarray(logits - logits.max() - np.log(np.exp(logits - logits.max()).sum()))


def test_the_answer_is_that_of_libmtmds_helper(model: LoadedModel, loop: Loop) -> None:
    events = answer(loop, heard("a", wav(tone(440)), logprobs=20))
    likely = {each.token: each.logprob for each in events[0].logprobs[0].top if each.logprob is not None}
    expected, other = by_the_helper(model, wav(tone(440))), by_the_helper(model, wav(tone(3000)))
    assert max(abs(logprob - expected[token]) for token, logprob in likely.items()) < ROUNDING
    assert np.abs(other - expected).max() > 20 * ROUNDING, "another sound would do as well"


@pytest.mark.parametrize(("seconds", "n_pieces"), [(1, 1), (31, 2)])
def test_rows_count_as_tokens_of_the_prompt(loop: Loop, n_rows: int, seconds: int, n_pieces: int) -> None:
    request = heard("a", wav(tone(440, seconds)))
    counted = loop.count_tokens(BEFORE + AFTER, request.images, add_special=True)
    assert counted.count(-1) == n_rows * n_pieces
    assert answer(loop, request)[-1].prompt_tokens == len(counted)


def test_equal_sounds_share_their_cells_and_others_do_not(loop: Loop, n_rows: int) -> None:
    one, again, other = (
        answer(loop, heard(str(i), wav(tone(hertz)))) for i, hertz in enumerate((440, 440, 880))
    )
    assert one[-1].cached_tokens == 0
    assert again[-1].cached_tokens == one[-1].prompt_tokens - 1
    assert other[-1].cached_tokens < one[-1].prompt_tokens - n_rows
    assert tokens_of(again) == tokens_of(one)


SAME = {
    "flac": flac(tone(440)),
    "a stream's wav": wav(tone(440), promised_bytes=2**32 - 1),
    "stereo": wav(tone(440), n_channels=2),
}


@pytest.mark.parametrize("name", SAME)
def test_a_sound_in_another_form_has_the_same_answer(loop: Loop, name: str) -> None:
    one, other = answer(loop, heard("a", wav(tone(440)))), answer(loop, heard("b", SAME[name]))
    assert tokens_of(one) == tokens_of(other)


def test_other_rates_and_mp3_are_read(loop: Loop, n_rows: int) -> None:
    for sound in (wav(tone(440, rate=44_100), 44_100), mp3(40, before=id3(300)), flac(tone(440), 8_000)):
        counted = loop.count_tokens(BEFORE + AFTER, heard("a", sound).images, add_special=True)
        assert counted.count(-1) == n_rows


def test_an_image_is_no_sound_and_a_sound_no_image(loop: Loop) -> None:
    for data, is_audio, why in ((png(1), True, "no WAV, MP3 or FLAC"), (wav(tone(440)), False, "is no PNG")):
        image = Image(len(BEFORE), data, "it", is_audio)
        events = answer(loop, make_request("a", BEFORE + AFTER, images=(image,)))
        assert events[-1].finish_reason is FinishReason.ERROR
        assert why in (events[-1].error or "")
    events = answer(loop, make_request("a", BEFORE + AFTER, images=(Image(len(BEFORE), png(1), "it"),)))
    assert events[-1].finish_reason is FinishReason.ERROR


@pytest.mark.parametrize(
    ("sounds", "why"),
    [
        ((b"",), "'sounds[0]' cannot be read: it is no WAV, MP3 or FLAC"),
        ((wav(tone(440))[:30],), "'sounds[0]' cannot be read: the audio breaks off or is damaged"),
        ((wav(tone(440, 0.05)),), "'sounds[0]' is 0.05 s long; 0.1 s is the least"),
        (
            (wav(tone(440)), flac(tone(440), promised_samples=2**36 - 1)),
            "with 'sounds[1]' the sound is 4,294,968 s long; 1,800 s is the most",
        ),
    ],
)
def test_a_bad_sound_is_refused_alone(loop: Loop, sounds: tuple[bytes, ...], why: str) -> None:
    assert MAX_AUDIO_S == 1800
    bad, good = run(loop, heard("bad", *sounds), heard("good", wav(tone(440)))).values()
    assert bad[-1].error_code == "invalid_value"
    assert why in (bad[-1].error or "")
    assert len(tokens_of(good)) == 8


def test_a_sound_that_does_not_fit_is_refused_with_the_numbers(loop: Loop, n_rows: int) -> None:
    sounds = [wav(tone(440 + i)) for i in range(2048 // n_rows + 1)]
    events = answer(loop, heard("many", *sounds))
    assert events[-1].error_code == "context_length_exceeded"
    assert f"{n_rows * len(sounds):,} of them for images" in (events[-1].error or "")


def test_sounds_take_only_the_planned_memory(model: LoadedModel, loop: Loop) -> None:
    answer(loop, heard("a", wav(tone(440, 31))))
    held, planned = model.memory_use()["host"], model.plan.estimate.host
    assert held.compute_bytes == planned.compute_bytes
    assert held.context_bytes == planned.context_bytes


def test_a_projector_that_sees_and_hears(host: Host, tmp_path: Path) -> None:
    """Images and sounds of one prompt, in any order."""
    mmproj = write_eyes_and_ears(tmp_path / "mmproj.gguf")
    wish = Workload(n_ctx=1024, reserve_bytes=0, mmproj=str(mmproj), **EXACT)
    plan = planning.plan(str(write_f32(tmp_path / "f32.gguf")), Machine(devices=(), host=host), wish)
    with loaded(plan) as model:
        assert model.images is not None
        assert (model.images.takes_images, model.images.takes_audio) == (True, True)
        loop = Loop(model)
        eye, ear = Image(2, png(1), "image"), Image(4, wav(tone(440)), "sound", True)
        answers = []
        for number, media in enumerate(((eye, ear), (replace(ear, at=2), replace(eye, at=4)))):
            request = make_request(str(number), "a b c d", max_tokens=4, images=media)
            events = answer(loop, request)
            assert events[-1].prompt_tokens > 16 + ROWS["ultravox"]
            answers.append(tokens_of(events))
        assert len(answers[0]) == len(answers[1]) == 4
        gc.collect()
