"""Images in the engine's loop, with real projectors: the answers of libmtmd's helper, no stream disturbed."""

import ctypes
import gc
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from llama_cpp import mtmd_cpp as M  # noqa: N812 - the C side

from tests.companions import write_mmproj
from tests.conftest import PlanOnCpu
from tests.engine.harness import EXACT, empty, full_step, loaded, make_request, tokens_of, write_f32
from tests.engine.harness import run as run_all
from tests.patience import PATIENCE_S
from tests.pictures import bmp, gif, png, png_of, webp
from vram_llm.engine.inputs.image_prompts import MAX_PIXELS
from vram_llm.engine.loop import Loop
from vram_llm.engine.request import (
    FinishReason,
    Grammar,
    GrammarKind,
    Image,
    Request,
    SamplingParams,
    TokenEvent,
)
from vram_llm.llama.dryrun.client import METHOD
from vram_llm.llama.model import LoadedModel
from vram_llm.llama.multimodal.encoder import Bitmap, ImageRows
from vram_llm.machine.types import Host, Machine
from vram_llm.planner.types import Plan, Serving, Workload
from vram_llm.units import MIB
from vram_llm.workflows import planning

pytestmark = pytest.mark.process

BEFORE, AFTER = "What is there to be seen in this picture, the one here? ", " Say it."
Answer = list[TokenEvent]

KINDS = {"mlp": "llama", "qwen2vl_merger": "qwen2vl", "gemma3": "gemma3"}  # the text model of a projector
ROUNDING = {"llama": 2e-5, "qwen2vl": 1e-6, "gemma3": 1e-5}
"""Most that two computations of one answer may differ, in logarithms of probabilities. Seen over thousands of
tokens: 2e-6, 8e-8, 1e-6. An image one character earlier: 2e-1, 9e-4, 9e-5; one position away: 1e-5 (qwen2vl).
"""


@pytest.fixture(scope="module", params=KINDS)
def plan(request: pytest.FixtureRequest, host: Host, tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """LLaVA's kind: 16 rows an image. Qwen2-VL's: several rows at a position. Gemma 3's: a sliding window,
    and rows that see each other. Weights and cache are float32.
    """
    folder, kind = tmp_path_factory.mktemp("images"), request.param
    path = write_f32(folder / "f32.gguf", KINDS[kind])
    mmproj = write_mmproj(folder / "mmproj.gguf", kind=kind, n_text=64 if kind == "mlp" else 256)
    wish = Workload(
        n_ctx=512, parallel=4, reserve_bytes=0, n_batch=64, n_ubatch=32, mmproj=str(mmproj),
        serving=Serving(slots_ram_bytes=64 * MIB), **EXACT,
    )  # fmt: skip
    plan = planning.plan(str(path), Machine(devices=(), host=host), wish)
    assert plan.estimate.method == METHOD, plan.notes
    return plan


@pytest.fixture(scope="module")
def model(plan: Plan) -> Iterator[LoadedModel]:
    with loaded(plan) as model:
        yield model
        gc.collect()


@pytest.fixture
def rounding(plan: Plan) -> float:
    """The model's ROUNDING."""
    return ROUNDING[plan.model.architecture]


@pytest.fixture
def loop(model: LoadedModel) -> Iterator[Loop]:
    """A loop that shares; what a test leaves is evicted."""
    loop = Loop(model)
    yield loop
    assert loop.is_idle
    empty(loop)


def seen(name: str, *pictures: bytes, max_tokens: int = 12, **options: Any) -> Request:
    """A request with pictures in the middle of its prompt."""
    images = tuple(Image(len(BEFORE), picture, f"images[{i}]") for i, picture in enumerate(pictures))
    return make_request(name, BEFORE + AFTER, max_tokens=max_tokens, images=images, **options)


def run(loop: Loop, *requests: Request) -> list[Answer]:
    return list(run_all(loop, *requests).values())


def likelihoods(answer: Answer) -> list[dict[int, float]]:
    """For each token of the answer: the likeliest ones and the logarithms of their probabilities."""
    told = [each for event in answer for each in event.logprobs]
    return [{each.token: each.logprob for each in one.top if each.logprob is not None} for one in told]


def assert_same(alone: Answer, among: Answer, rounding: float) -> None:
    """Probabilities and tokens are the same, up to a token whose two likeliest are as close as rounding."""
    for i, (one, other) in enumerate(zip(likelihoods(alone), likelihoods(among), strict=True)):
        assert max(abs(one[token] - other[token]) for token in one.keys() & other.keys()) < rounding, i
        if tokens_of(alone)[i] != tokens_of(among)[i]:
            best, second, *_ = sorted(one.values(), reverse=True)
            assert best - second < 2 * rounding, i
            return


def by_the_helper(model: LoadedModel, *pictures: bytes) -> npt.NDArray[np.float32]:
    """The logits after the prompt of `seen`, as mtmd_helper_eval_chunks leaves them."""
    reader = model.images
    assert reader is not None
    model.forget(0)
    marker = M.mtmd_default_marker()
    text = BEFORE.encode() + marker * len(pictures) + AFTER.encode()
    bitmaps = [Bitmap(picture) for picture in pictures]
    handles = (ctypes.c_void_p * len(bitmaps))(*(bitmap.handle for bitmap in bitmaps))
    chunks = M.mtmd_input_chunks_init()
    asked = M.mtmd_input_text(text, len(text), True, True)
    assert M.mtmd_tokenize(reader._mtmd, chunks, ctypes.byref(asked), handles, len(bitmaps)) == 0
    end = ctypes.c_int32()
    assert M.mtmd_helper_eval_chunks(reader._mtmd, model.ctx, chunks, 0, 0, 64, True, ctypes.byref(end)) == 0
    M.mtmd_input_chunks_free(chunks)
    logits = model.logits(-1).copy()
    model.forget(0)
    return logits


def logprobs(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    wide = logits.astype(np.float64)
    return np.asarray(wide - wide.max() - np.log(np.exp(wide - wide.max()).sum()))


@pytest.mark.parametrize("pictures", [(png(1),), (png(2), png(3))], ids=["one", "two"])
def test_the_answer_is_that_of_libmtmds_helper(
    model: LoadedModel, loop: Loop, rounding: float, pictures: tuple[bytes, ...]
) -> None:
    (answer,) = run(loop, seen("a", *pictures, logprobs=20))
    expected = logprobs(by_the_helper(model, *pictures))
    other = logprobs(by_the_helper(model, png(9), *pictures[1:]))
    error = max(abs(logprob - expected[token]) for token, logprob in likelihoods(answer)[0].items())
    assert error < rounding
    assert np.abs(other - expected).max() > 20 * rounding, "another image would do as well"


def places(model: LoadedModel, picture: bytes) -> tuple[int, int, int]:
    """Tokens before a picture in the prompt of `seen`, its rows, and the positions those take."""
    assert model.images is not None
    before, image, _ = model.images.read([BEFORE, Bitmap(picture), AFTER], add_special=True)
    assert isinstance(before, list)
    assert isinstance(image, ImageRows)
    return len(before), image.n_rows, image.n_positions


def test_rows_count_as_tokens_of_the_prompt(model: LoadedModel, loop: Loop) -> None:
    _, n_rows, _ = places(model, png(1))
    (answer,) = run(loop, seen("a", png(1)))
    counted = loop.count_tokens(BEFORE + AFTER, seen("a", png(1)).images, add_special=True)
    assert (len(counted), counted.count(-1)) == (answer[-1].prompt_tokens, n_rows)


def test_libmtmds_own_marker_is_text_in_a_prompt(model: LoadedModel) -> None:
    assert model.images is not None
    marker = M.mtmd_default_marker().decode()
    parts = model.images.read([f"a {marker} b", Bitmap(png(1)), f"c {marker}"], add_special=True)
    assert sum(isinstance(part, ImageRows) for part in parts) == 1


def test_equal_images_share_their_cells_and_others_do_not(model: LoadedModel, loop: Loop) -> None:
    """An image that takes fewer positions than rows is computed again; the tokens before it are shared."""
    (one,), (again,), (other,) = (run(loop, seen(str(i), png(seed))) for i, seed in enumerate((1, 1, 2)))
    n_before, n_rows, n_positions = places(model, png(1))
    assert one[-1].cached_tokens == 0
    assert other[-1].cached_tokens <= n_before
    if model.cells.is_stateful:
        assert again[-1].cached_tokens == one[-1].prompt_tokens - 1
    elif n_positions < n_rows:
        assert again[-1].cached_tokens == other[-1].cached_tokens == n_before
    else:
        assert (again[-1].cached_tokens, other[-1].cached_tokens) == (one[-1].prompt_tokens - 1, n_before)
    assert tokens_of(again) == tokens_of(one)
    empty(loop)
    (alone,) = run(loop, seen("alone", png(2)))
    assert tokens_of(alone) == tokens_of(other)


def test_images_take_only_the_planned_memory(model: LoadedModel, loop: Loop) -> None:
    run(loop, *(seen(str(i), png(i, 500, 300)) for i in range(3)))
    held, planned = model.memory_use()["host"], model.plan.estimate.host
    assert held.compute_bytes == planned.compute_bytes
    assert held.context_bytes == planned.context_bytes


def test_other_streams_continue_and_get_the_same_answers_as_alone(loop: Loop) -> None:
    text = make_request("text", "Count with me:", max_tokens=40)
    (alone,) = run(loop, text)
    requests = [seen(f"image {i}", png(i)) for i in range(3)]
    assert loop.submit(text) is None
    full_step(loop)
    for request in requests:
        loop.submit(request)
    steps: list[set[str]] = []
    beside: Answer = []
    ends = 0
    while not loop.is_idle:
        events = full_step(loop)
        steps.append({event.id for event in events})
        beside += [event for event in events if event.id == "text"]
        ends += sum(event.id != "text" and event.finish_reason is not None for event in events)
    assert ends == 3
    last = max(i for i, ids in enumerate(steps) if "text" in ids)
    assert all("text" in ids for ids in steps[1:last]), "a step without its token"
    assert tokens_of(alone)[1:] == tokens_of(beside) or tokens_of(alone) == tokens_of(beside)


@pytest.mark.parametrize("slots_ram_bytes", [64 * MIB, 0], ids=["kept on the host", "computed again"])
def test_a_preempted_request_resumes_with_its_image(
    model: LoadedModel, loop: Loop, rounding: float, monkeypatch: pytest.MonkeyPatch, slots_ram_bytes: int
) -> None:
    serving = Serving(slots_ram_bytes=slots_ram_bytes)
    monkeypatch.setattr(model, "plan", replace(model.plan, serving=serving))
    crowded = Loop(model)
    n_prompt = len(loop.count_tokens(BEFORE + AFTER, seen("a", png(4)).images, add_special=True))
    crowded._cache.n_cells = 2 * n_prompt + 60  # two begin, and do not fit to their ends
    answers = run(crowded, *(seen(f"{i}", png(4 + i), max_tokens=60, logprobs=20) for i in range(3)))
    assert crowded.stats().n_preemptions > 0
    empty(crowded)
    for i, answer in enumerate(answers):
        (alone,) = run(loop, seen("alone", png(4 + i), max_tokens=60, logprobs=20))
        assert_same(alone, answer, rounding)


def test_grammar_and_logprobs_and_penalties_work_after_an_image(loop: Loop) -> None:
    yes = Grammar(kind=GrammarKind.CHOICE, text='["yes", "no"]', field="guided_choice")
    dry = SamplingParams(temperature=0.7, seed=3, dry_multiplier=0.8, repeat_penalty=1.1)
    answers = run(
        loop,
        replace(seen("grammar", png(1), max_tokens=50), grammar=yes, ignore_eos=False),
        seen("told", png(2), logprobs=3),
        seen("dry", png(3), sampling=dry),
    )
    assert "".join(event.text for event in answers[0]) in ("yes", "no")
    assert all(len(event.logprobs) == len(event.token_ids) for event in answers[1])
    assert len(tokens_of(answers[2])) == 12
    assert all(token >= 0 for answer in answers for token in tokens_of(answer))


def test_drafts_never_hold_an_image(loop: Loop) -> None:
    """The prompt's beginning comes again after the image, so that lookup would draft the image's rows."""
    request = replace(seen("a", png(1), max_tokens=60), prompt=BEFORE + AFTER + BEFORE)
    (answer,) = run(loop, request)
    assert len(tokens_of(answer)) == 60


WIDE_WEBP = b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0\2\0\0\0" + bytes([255] * 6)
CASES = [
    (b"", "'images[0]' cannot be read: it is no PNG, JPEG, GIF, BMP or WebP"),
    (b"not a picture", "'images[0]' cannot be read: it is no PNG, JPEG, GIF, BMP or WebP"),
    (png(1)[:60], "'images[0]' cannot be read: the image breaks off or is damaged"),
    (gif(0, 0), "'images[0]' cannot be read: it has 0 x 0 pixels"),
    (WIDE_WEBP, "16,777,216 x 16,777,216 pixels; the images of a request may have"),
    (png_of(9000, 9000, b""), f"9,000 x 9,000 pixels; the images of a request may have {MAX_PIXELS:,}"),
]


@pytest.mark.parametrize(
    ("picture", "why"), CASES, ids=["empty", "text", "cut short", "nothing", "wide webp", "huge"]
)
def test_a_bad_image_is_refused_alone(loop: Loop, picture: bytes, why: str) -> None:
    bad, good = run(loop, seen("bad", picture), seen("good", png(1)))
    assert bad[-1].finish_reason is FinishReason.ERROR
    assert bad[-1].error_code == "invalid_value"
    assert bad[-1].error_param == "images[0]"
    assert why in (bad[-1].error or "")
    assert len(tokens_of(good)) == 12


def test_a_webp_is_read_as_the_png_of_its_pixels(loop: Loop) -> None:
    as_webp, as_png = run(loop, seen("webp", webp(1)), seen("png", png(1)))
    assert tokens_of(as_webp) == tokens_of(as_png)
    assert as_webp[-1].prompt_tokens == as_png[-1].prompt_tokens


def test_a_bitmap_from_the_top_down(loop: Loop) -> None:
    upwards, downwards = run(loop, seen("up", bmp(60, 40)), seen("down", bmp(60, 40, top_down=True)))
    assert len(tokens_of(upwards)) == len(tokens_of(downwards)) == 12
    assert upwards[-1].prompt_tokens == downwards[-1].prompt_tokens


def test_a_prompt_that_does_not_fit_is_refused_with_the_numbers(loop: Loop) -> None:
    request = seen("many", *(png(i, 200, 200) for i in range(120)))
    n_rows = loop.count_tokens(BEFORE + AFTER, request.images, add_special=True).count(-1)
    (answer,) = run(loop, request)
    assert answer[-1].error_code == "context_length_exceeded"
    assert f"{n_rows:,} of them for images or sound, and the context holds 512" in (answer[-1].error or "")


def test_a_prompt_must_not_end_with_an_image(model: LoadedModel, loop: Loop) -> None:
    assert model.images is not None
    ends_in_text = len(model.images.read([BEFORE, Bitmap(png(1))], add_special=True)) > 2
    (answer,) = run(loop, replace(seen("a", png(1)), prompt=BEFORE))
    assert ("cannot end with an image" in (answer[-1].error or "")) is not ends_in_text


def test_cancelled_at_any_step(loop: Loop) -> None:
    for n_steps in range(6):
        loop.submit(seen(f"a{n_steps}", png(n_steps)))
        for _ in range(n_steps):
            full_step(loop)
        loop.cancel(f"a{n_steps}")
        assert loop.is_idle
    (answer,) = run(loop, seen("after", png(1)))
    assert len(tokens_of(answer)) == 12


def test_images_of_cancelled_requests_are_not_read(loop: Loop) -> None:
    pictures = loop._new._images
    assert pictures is not None
    go_on = threading.Event()
    pictures._reading.submit(go_on.wait, PATIENCE_S)
    loop.submit(seen("a", png(1)))
    loop.submit(seen("b", png(1)))
    reading = loop._new._pending.waiting[0].prompt
    assert isinstance(reading, Future)
    loop.cancel("a")
    assert not reading.cancelled(), "the other choice waits for it"
    loop.cancel("b")
    assert reading.cancelled()
    assert pictures._last is None
    go_on.set()
    (answer,) = run(loop, seen("after", png(1)))
    assert len(tokens_of(answer)) == 12
    assert pictures._last is None


def test_without_a_projector_images_are_refused(plan_on_cpu: PlanOnCpu) -> None:
    with loaded(plan_on_cpu()) as model:
        (answer,) = run(Loop(model), seen("a", png(1)))
    assert "takes no images" in (answer[-1].error or "")
