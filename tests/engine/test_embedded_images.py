"""Embeddings of images, compared with the hidden states that llama.cpp's own bindings give by libmtmd."""

import ctypes
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np
import numpy.typing as npt
import pytest
from llama_cpp import mtmd_cpp as M  # noqa: N812 - the C side

from tests.companions import write_ears, write_mmproj
from tests.engine.harness import EXACT, loaded, write_f32
from tests.pictures import png
from tests.sounds import tone, wav
from tools.random_bert import write_bert
from vram_llm.engine.embedding_loop import Embedder
from vram_llm.engine.inputs.image_prompts import MAX_PIXELS
from vram_llm.engine.request import EmbeddingRequest, Image
from vram_llm.engine.wire import Embedded
from vram_llm.errors import BadPlan
from vram_llm.llama.dryrun.client import METHOD
from vram_llm.llama.multimodal.encoder import Bitmap
from vram_llm.machine.types import Host, Machine
from vram_llm.model.pooling import Pooling
from vram_llm.planner.export.llama_server import command_line
from vram_llm.planner.types import Plan, Workload
from vram_llm.workflows import planning

pytestmark = pytest.mark.process

BEFORE, AFTER = "What is there to be seen in this picture, the one here? ", " Say it."
KINDS = {"mlp": "llama", "qwen2vl_merger": "qwen2vl", "gemma3": "gemma3"}  # the text model of a projector
Rows = npt.NDArray[np.float32]


class Files:
    """A text model and its projector, and plans of them."""

    def __init__(self, folder: Path, kind: str, host: Host) -> None:
        self.model = write_f32(folder / "f32.gguf", KINDS[kind])
        self.mmproj = write_mmproj(folder / "mmproj.gguf", kind=kind, n_text=64 if kind == "mlp" else 256)
        self._host = host

    def plan(self, pooling: Pooling, **more: Any) -> Plan:
        wish = {"n_ctx": 512, "parallel": 4, "n_batch": 64, "n_ubatch": 32, "reserve_bytes": 0, **EXACT}
        workload = Workload(pooling=pooling, **{**wish, "mmproj": str(self.mmproj), **more})
        return planning.plan(str(self.model), Machine(devices=(), host=self._host), workload)


@pytest.fixture(scope="module", params=KINDS)
def files(request: pytest.FixtureRequest, host: Host, tmp_path_factory: pytest.TempPathFactory) -> Files:
    """LLaVA's kind; Qwen2-VL's: several rows at a position; Gemma 3's: rows that see each other."""
    return Files(tmp_path_factory.mktemp("images"), request.param, host)


@pytest.fixture(scope="module")
def llava(host: Host, tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("llava"), "mlp", host)


@pytest.fixture
def embedder(llava: Files) -> Iterator[Embedder]:
    with loaded(llava.plan(Pooling.MEAN)) as model:
        yield Embedder(model)


def seen(*pictures: bytes, at: int = len(BEFORE)) -> tuple[Image, ...]:
    return tuple(Image(at, picture, f"input[{i}]") for i, picture in enumerate(pictures))


def asked(name: str, *pictures: bytes) -> EmbeddingRequest:
    """A request for three vectors: of a text, of it with pictures in its middle, of another text."""
    return EmbeddingRequest(
        id=name, inputs=(BEFORE + AFTER, BEFORE + AFTER, "a house"), images=((), seen(*pictures), ())
    )


def run(embedder: Embedder, *requests: EmbeddingRequest) -> dict[str, Embedded]:
    found = {request.id: answer for request in requests if (answer := embedder.submit(request)) is not None}
    while not embedder.is_idle:
        found |= {answer.id: answer for answer in embedder.step()}
    return found


def rows(answer: Embedded) -> Rows:
    assert answer.error is None, answer.error
    n = len(answer.n_tokens)
    return np.frombuffer(answer.vectors, np.float32).reshape(n, -1)


def by_libmtmd(files: Files, text: bytes, *pictures: bytes) -> Rows:
    """The hidden states of a prompt's tokens and rows, by a model and a context of the bindings alone."""
    params = llama_cpp.llama_model_default_params()
    params.n_gpu_layers = 0
    model = llama_cpp.llama_model_load_from_file(bytes(files.model), params)
    wish = llama_cpp.llama_context_default_params()
    wish.n_ctx, wish.n_batch, wish.n_ubatch, wish.n_outputs_max = 512, 512, 512, 512
    wish.embeddings, wish.pooling_type = True, llama_cpp.LLAMA_POOLING_TYPE_NONE
    wish.type_k = wish.type_v = 0  # float32
    wish.flash_attn_type = 0
    ctx = llama_cpp.llama_init_from_model(model, wish)
    eyes = M.mtmd_context_params_default()
    eyes.use_gpu, eyes.flash_attn_type = False, 0
    mtmd = M.mtmd_init_from_file(bytes(files.mmproj), model, eyes)
    bitmaps = [Bitmap(picture) for picture in pictures]
    handles = (ctypes.c_void_p * len(bitmaps))(*(bitmap.handle for bitmap in bitmaps))
    chunks = M.mtmd_input_chunks_init()
    given = M.mtmd_input_text(text, len(text), True, True)
    assert M.mtmd_tokenize(mtmd, chunks, ctypes.byref(given), handles, len(bitmaps)) == 0
    n_embd, end, found = llama_cpp.llama_model_n_embd_out(model), ctypes.c_int32(0), []
    for i in range(M.mtmd_input_chunks_size(chunks)):
        chunk = M.mtmd_input_chunks_get(chunks, i)
        status = M.mtmd_helper_eval_chunk_single(
            mtmd, ctx, chunk, end.value, 0, 512, False, ctypes.byref(end)
        )
        assert status == 0
        for row in range(M.mtmd_input_chunk_get_n_tokens(chunk)):
            vector = llama_cpp.llama_get_embeddings_ith(ctx, row)
            found.append(np.ctypeslib.as_array(vector, (n_embd,)).copy())
    M.mtmd_input_chunks_free(chunks)
    M.mtmd_free(mtmd)
    llama_cpp.llama_free(ctx)
    llama_cpp.llama_model_free(model)
    return np.array(found, np.float32)


def with_markers(n: int) -> bytes:
    marker: bytes = M.mtmd_default_marker()
    return BEFORE.encode() + marker * n + AFTER.encode()


@pytest.mark.parametrize("pooling", [Pooling.MEAN, Pooling.CLS, Pooling.LAST, Pooling.NONE])
def test_the_vector_is_pooled_over_all_tokens_and_rows(files: Files, pooling: Pooling) -> None:
    pictures = (png(1), png(2))
    hidden = by_libmtmd(files, with_markers(2), *pictures)
    text = by_libmtmd(files, (BEFORE + AFTER).encode())
    with loaded(files.plan(pooling)) as model:
        answer = run(Embedder(model), asked("a", *pictures))["a"]
    assert answer.n_tokens[:2] == [len(text), len(hidden)]
    if pooling is Pooling.NONE:
        vectors = np.frombuffer(answer.vectors, np.float32).reshape(sum(answer.n_tokens), -1)
        np.testing.assert_allclose(vectors[len(text) :][: len(hidden)], hidden, atol=2e-4)
        return
    plain, pictured, _ = rows(answer)
    for found, vectors in ((pictured, hidden), (plain, text)):
        pooled = {Pooling.MEAN: vectors.mean(axis=0), Pooling.CLS: vectors[0], Pooling.LAST: vectors[-1]}
        np.testing.assert_allclose(found, pooled[pooling], atol=2e-4)
    if pooling is not Pooling.CLS:  # the first token sees no image
        assert np.abs(pictured - plain).max() > 1e-3


def test_equal_images_have_equal_vectors_among_other_requests(embedder: Embedder) -> None:
    alone = rows(run(embedder, asked("alone", png(1)))["alone"])
    found = run(embedder, asked("a", png(1)), asked("b", png(2)), asked("c", png(1)))
    for name in ("a", "c"):
        np.testing.assert_allclose(rows(found[name]), alone, atol=2e-5)
    assert np.abs(rows(found["b"])[1] - alone[1]).max() > 1e-3


def test_an_input_may_end_with_an_image_or_be_one(embedder: Embedder, llava: Files) -> None:
    request = EmbeddingRequest(id="a", inputs=("", BEFORE), images=(seen(png(1), at=0), seen(png(1))))
    only, last = rows(run(embedder, request)["a"])
    marker = M.mtmd_default_marker()
    for found, text in ((only, marker), (last, BEFORE.encode() + marker)):
        np.testing.assert_allclose(found, by_libmtmd(llava, text, png(1)).mean(axis=0), atol=2e-4)


def test_texts_and_images_larger_than_a_batch_are_pooled_whole(llava: Files) -> None:
    long = "There is a river in the valley. " * 8
    request = EmbeddingRequest(id="a", inputs=(long, long), images=((), seen(png(1), at=len(long))))
    with loaded(llava.plan(Pooling.MEAN, n_ubatch=8)) as model:
        assert model.n_batch == 8
        answer = run(Embedder(model), request)["a"]
    assert min(answer.n_tokens) > 64
    plain, pictured = rows(answer)
    marked = long.encode() + M.mtmd_default_marker()
    np.testing.assert_allclose(plain, by_libmtmd(llava, long.encode()).mean(axis=0), atol=2e-4)
    np.testing.assert_allclose(pictured, by_libmtmd(llava, marked, png(1)).mean(axis=0), atol=2e-4)


def test_cancelled_at_any_step(embedder: Embedder) -> None:
    alone = rows(run(embedder, asked("alone", png(1)))["alone"])
    for n_steps in range(8):
        assert embedder.submit(asked("a", png(1), png(2))) is None
        for _ in range(n_steps):
            embedder.step()
        embedder.cancel("a")
        assert embedder.is_idle
    np.testing.assert_allclose(rows(run(embedder, asked("b", png(1)))["b"]), alone, atol=2e-5)


def test_bad_images_are_refused_alone(embedder: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    huge = png(1, 5000, 5000)
    apart = EmbeddingRequest(id="apart", inputs=("a", "b"), images=(seen(huge, at=0), seen(huge, at=0)))
    many = EmbeddingRequest(id="many", inputs=("a",), images=(seen(*[png(1)] * 32, at=0),))
    found = run(embedder, asked("bad", b"no image"), apart, many, asked("good", png(1)))
    assert "'input[0]' cannot be read: it is no PNG" in (found["bad"].error or "")
    assert found["bad"].error_param == "input[0]"
    assert f"may have {MAX_PIXELS:,} together" in (found["apart"].error or "")
    assert found["many"].error_code == "context_length_exceeded"
    assert rows(found["good"]).shape[0] == 3
    reader = embedder._model.images
    assert reader is not None
    monkeypatch.setattr(reader, "encode", lambda image: False)
    failed = run(embedder, asked("failed", png(1)), EmbeddingRequest(id="text", inputs=("a",)))
    assert failed["failed"].error == "the projector failed on an image of this request"
    assert failed["text"].error is None


def test_sound_is_embedded(llava: Files, tmp_path: Path) -> None:
    ears = write_ears(tmp_path / "mmproj.gguf")
    sound = (Image(len(BEFORE), wav(tone(440)), "input[0]", is_audio=True),)
    with loaded(llava.plan(Pooling.MEAN, mmproj=str(ears))) as model:
        request = EmbeddingRequest(id="a", inputs=(BEFORE + AFTER,) * 2, images=(sound, ()))
        heard, plain = rows(run(Embedder(model), request)["a"])
    assert np.abs(heard - plain).max() > 1e-3


def test_memory_is_what_the_dry_run_planned(llava: Files) -> None:
    plan = llava.plan(Pooling.MEAN)
    assert plan.estimate.method == METHOD, plan.notes
    assert plan.estimate.host.companion_bytes > llava.mmproj.stat().st_size // 2
    with loaded(plan) as model:
        use = model.memory_use()["host"]
    assert use.compute_bytes == plan.estimate.host.compute_bytes


def test_an_exported_plan_says_how_llama_server_pools(llava: Files) -> None:
    pools = "llama-server pools each micro-batch by itself"
    assert pools in command_line(llava.plan(Pooling.MEAN))
    assert pools not in command_line(llava.plan(Pooling.LAST))


def test_without_a_projector_images_are_refused(llava: Files) -> None:
    with loaded(llava.plan(Pooling.MEAN, mmproj=None, find_mmproj=False)) as model:
        answer = run(Embedder(model), asked("a", png(1)))["a"]
    assert answer.error == "this model is served without a projector, so it takes no images"


def test_plans_that_cannot_be(llava: Files, host: Host, tmp_path: Path) -> None:
    bert, machine = write_bert(tmp_path / "bert.gguf"), Machine(devices=(), host=host)
    with pytest.raises(BadPlan, match="computes a text all at once, so that images have no place in it"):
        planning.plan(str(bert), machine, Workload(mmproj=str(llava.mmproj)))
    rank = write_bert(tmp_path / "rank.gguf", pooling=gguf.PoolingType.RANK)
    with pytest.raises(BadPlan, match="documents are ranked by their text alone"):
        planning.plan(str(rank), machine, Workload(mmproj=str(llava.mmproj)))
