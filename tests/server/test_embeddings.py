"""POST /v1/embeddings and /v1/rerank, over the ASGI interface and, by OpenAI's SDK, a real encoder."""

import asyncio
import base64
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import httpx
import llama_cpp
import numpy as np
import openai
import pytest

from tests.conftest import PlanOnCpu
from tests.engine.harness import running
from tests.patience import PATIENCE_S
from tests.server.conftest import Connect
from tests.server.fake_engine import INFO, FakeEngine
from tests.server.live import async_openai_sdk, http_client, listening, listening_with
from tools.random_bert import write_bert
from vram_llm.engine.client import EngineClient
from vram_llm.engine.request import EmbeddingRequest
from vram_llm.engine.wire import Embedded
from vram_llm.errors import EngineDied
from vram_llm.model.pooling import Pooling

pytestmark = pytest.mark.process

EMBEDDER = replace(INFO, pooling=Pooling.MEAN, n_pooled=4)
RANKER = replace(INFO, pooling=Pooling.RANK, n_pooled=1)
TEXTS = [f"the {i} dogs walk over the hill" for i in range(40)]


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine(info=EMBEDDER)


async def embed(client: httpx.AsyncClient, given: Any, **fields: Any) -> httpx.Response:
    return await client.post("/v1/embeddings", json={"model": "tiny", "input": given, **fields})


async def rank(client: httpx.AsyncClient, documents: Any, **fields: Any) -> httpx.Response:
    body = {"model": "tiny", "query": "why?", "documents": documents, **fields}
    return await client.post("/rerank", json=body)


async def test_reply(client: httpx.AsyncClient) -> None:
    reply = (await embed(client, ["ab", "c"])).json()
    vector = {"object": "embedding", "index": 0, "embedding": [0.5] * 4}
    assert reply == {
        "object": "list",
        "data": [vector, {**vector, "index": 1}],
        "model": "tiny",
        "usage": {"prompt_tokens": 3, "total_tokens": 3},
    }


@pytest.mark.parametrize(
    ("given", "seen"),
    [
        ("a", ("a",)),
        (["a", "b"], ("a", "b")),
        ([1, 2], ((1, 2),)),
        ([[1], [2, 99]], ((1,), (2, 99))),
        (["a", [2, 99]], ("a", (2, 99))),
        ([5, "AB", 6], ((5, 65, 66, 6),)),
        ([["A", 6], [7, "B"]], ((1, 65, 6), (7, 66))),
        ({"prompt_string": "a"}, ("a",)),
        ({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, ("ab",)),
        (["a", {"prompt_string": "b"}, {"content": [{"type": "text", "text": "c"}]}], ("a", "b", "c")),
    ],
)
async def test_shapes_of_the_input(
    client: httpx.AsyncClient, engine: FakeEngine, given: Any, seen: tuple[Any, ...]
) -> None:
    assert (await embed(client, given)).status_code == 200
    assert engine.embedded[0].inputs == seen


@pytest.mark.parametrize(
    ("path", "field"), [("/embedding", "content"), ("/embeddings", "input"), ("/v1/embeddings", "content")]
)
async def test_llama_servers_form(client: httpx.AsyncClient, path: str, field: str) -> None:
    """A list, in which each input has a list of one vector."""
    reply = await client.post(path, json={field: ["ab", "c"]})
    assert reply.json() == [{"index": 0, "embedding": [[0.5] * 4]}, {"index": 1, "embedding": [[0.5] * 4]}]


async def test_vectors_of_tokens(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.info = replace(EMBEDDER, pooling=Pooling.NONE)
    reply = await client.post("/embeddings", json={"input": ["abc", "d"], "dimensions": 2})
    assert reply.json() == [
        {"index": 0, "embedding": [[0.0] * 2, [1.0] * 2, [2.0] * 2]}, {"index": 1, "embedding": [[0.0] * 2]},
    ]  # fmt: skip
    for path, fields, sentence in (
        ("/v1/embeddings", {"input": "a"}, "OpenAI's form has no place for; send the request to /embeddings"),
        ("/embeddings", {"input": "a", "embd_normalize": 2}, "vectors are as the model gives them"),
    ):
        refused = await client.post(path, json=fields)
        assert (refused.status_code, sentence in refused.text) == (400, True)


@pytest.mark.parametrize(
    ("norm", "row"),
    [
        (-1, [3.0, -4.0, 0.0, 12.0]),
        (0, [8190.0, -10920.0, 0.0, 32760.0]),
        (1, [3 / 19, -4 / 19, 0.0, 12 / 19]),
        (2, [3 / 13, -4 / 13, 0.0, 12 / 13]),
        (3, [3 / 1819 ** (1 / 3), -4 / 1819 ** (1 / 3), 0.0, 12 / 1819 ** (1 / 3)]),
        (2**31 - 1, [0.25, -1 / 3, 0.0, 1.0]),
    ],
)
async def test_norms(connect: Connect, engine: FakeEngine, norm: int, row: list[float]) -> None:
    """As common_embd_normalize scales them, by the field and by the option."""
    given = np.array([[3, -4, 0, 12], [0, 0, 0, 0]], np.float32)

    async def embedded(request: EmbeddingRequest) -> Embedded:
        return Embedded(request.id, given.tobytes(), [1, 1])

    engine.embed = embedded  # type: ignore[method-assign]  # in place of its vectors
    for options, fields in (({}, {"embd_normalize": norm}), ({"embd_normalize": norm}, {})):
        reply = await connect(**options).post("/v1/embeddings", json={"input": ["a", "b"], **fields})
        first, second = (each["embedding"] for each in reply.json()["data"])
        np.testing.assert_allclose(first, row, rtol=1e-6)
        assert second == [0.0] * 4


async def test_fewer_dimensions_are_of_length_1_again(client: httpx.AsyncClient) -> None:
    (vector,) = (await embed(client, "a", dimensions=2)).json()["data"]
    np.testing.assert_allclose(vector["embedding"], [2**-0.5] * 2)


async def test_base64(client: httpx.AsyncClient) -> None:
    (vector,) = (await embed(client, "a", encoding_format="base64")).json()["data"]
    assert np.frombuffer(base64.b64decode(vector["embedding"]), "<f4").tolist() == [0.5] * 4


@pytest.mark.parametrize(
    ("fields", "param", "sentence"),
    [
        ({"input": []}, "input", "'input' must be a string, a list of strings"),
        ({"input": ["a", ""]}, "input", "'input[1]' is empty"),
        ({"input": [100]}, "input", "Token 100 in 'input' is not in the vocabulary: the last is 99"),
        ({"input": ["a"] * 2049}, "input", "'input' has 2,049 texts; 2,048 is the most"),
        ({"input": [[1, "a"]] * 2049}, "input", "'input' has 2,049 texts; 2,048 is the most"),
        ({"input": [1, *["a"] * 2049]}, "input", "2,049 texts in lists of parts; 2,048 is the most"),
        (
            {"input": [[1, "a" * 2**20], [1, "a"]]},
            "input",
            "have 1,048,577 characters; 1,048,576 is the most",
        ),
        (
            {"input": "a", "dimensions": 5},
            "dimensions",
            "'dimensions' is 5 and the model's",
        ),
        ({"input": [1, "a", [2]]}, "input", "'input[2]' must be a token id or a text"),
        ({"input": {"content": "a"}}, "input", "a 'content' that is a list of parts"),
        (
            {"input": {"content": [{"type": "text", "text": "x", "mood": 1}]}},
            "input.content[0].mood",
            "Unrecognized request argument supplied: input.content[0].mood",
        ),
        ({"input": {"content": [{"type": "mood"}]}}, "input.content[0]", "must be a part of type 'text'"),
        (
            {"input": {"content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}},
            "input.content[0].image_url.url",
            "is an image and the model is served without a projector",
        ),
        (
            {"input": ["a", {"prompt_string": "<__media__>", "multimodal_data": ["QUJD"]}]},
            "input[1].multimodal_data[0]",
            "is an image and the model is served without a projector",
        ),
        ({"content": "a", "encoding_format": "base64"}, "encoding_format", "has numbers only"),
        ({"content": ""}, "content", "'content[0]' is empty"),
        ({"content": [100]}, "content", "Token 100 in 'content' is not in the vocabulary"),
        ({"content": "a", "input": "a"}, "content", "send one of them"),
        ({"input": "a", "embd_normalize": -2}, "embd_normalize", "'embd_normalize' must be"),
        ({"input": "a", "dimensions": 0}, "dimensions", "'dimensions' must be"),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format", "'encoding_format' must be"),
        ({"input": "a", "instruction": "x"}, "instruction", "Unrecognized request argument supplied"),
        ({}, "input", "Missing required parameter: 'input'"),
    ],
)
async def test_refusals(
    client: httpx.AsyncClient, engine: FakeEngine, fields: dict[str, Any], param: str, sentence: str
) -> None:
    reply = await client.post("/v1/embeddings", json={"model": "tiny", **fields})
    assert reply.status_code == 400
    error = reply.json()["error"]
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert sentence in error["message"]
    assert engine.embedded == []


@pytest.mark.parametrize(
    ("info", "path", "sentence"),
    [
        (INFO, "embeddings", "'tiny' is served to write text; for embeddings serve a model made for them"),
        (INFO, "rerank", "'tiny' is not a reranker; it writes text"),
        (EMBEDDER, "rerank", "'tiny' is not a reranker; it makes embeddings: POST /v1/embeddings"),
        (RANKER, "embeddings", "'tiny' ranks documents and makes no embeddings"),
        (EMBEDDER, "chat/completions", "'tiny' writes no text; it makes embeddings: POST /v1/embeddings"),
        (EMBEDDER, "completions", "'tiny' writes no text"),
        (EMBEDDER, "responses", "'tiny' writes no text"),
        (EMBEDDER, "messages", "'tiny' writes no text"),
        (RANKER, "completions", "'tiny' writes no text; it ranks documents: POST /v1/rerank"),
    ],
)
async def test_a_model_that_does_something_else(
    client: httpx.AsyncClient, engine: FakeEngine, info: Any, path: str, sentence: str
) -> None:
    engine.info = info
    messages = [{"role": "user", "content": "hi"}]
    bodies: dict[str, dict[str, Any]] = {
        "embeddings": {"input": "a"}, "rerank": {"query": "a", "documents": ["b"]},
        "chat/completions": {"messages": messages}, "completions": {"prompt": "a"},
        "responses": {"input": "a"},
        "messages": {"messages": messages, "max_tokens": 5},
    }  # fmt: skip
    reply = await client.post(f"/v1/{path}", json={"model": "tiny", **bodies[path]})
    assert reply.status_code == 400
    assert sentence in reply.json()["error"]["message"]
    assert not engine.requests
    assert not engine.embedded


async def test_a_ranking(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.info = RANKER
    reply = (await rank(client, ["a", {"text": "b"}, "c"], top_n=2, return_documents=True)).json()
    assert reply == {
        "object": "list",
        "model": "tiny",
        "results": [
            {"index": 2, "relevance_score": 2.0, "document": {"text": "c"}},
            {"index": 1, "relevance_score": 1.0, "document": {"text": "b"}},
        ],
        "usage": {"prompt_tokens": 3, "total_tokens": 3},
    }
    assert (engine.embedded[0].query, engine.embedded[0].inputs) == ("why?", ("a", "b", "c"))
    assert "document" not in (await rank(client, ["a"])).json()["results"][0]


async def test_a_ranking_in_teis_form(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    engine.info = RANKER
    body = {"query": "why?", "texts": ["a", "b", "c"], "truncate": False}
    reply = (await client.post("/rerank", json=body)).json()
    assert [scored["index"] for scored in reply] == [2, 1, 0]
    np.testing.assert_allclose([scored["score"] for scored in reply], [0.880797, 0.731059, 0.5], rtol=1e-5)
    assert not engine.embedded[-1].truncates
    more = {"raw_scores": True, "return_text": True, "top_n": 1, "truncate": True}
    assert (await client.post("/rerank", json={**body, **more})).json() == [
        {"index": 2, "score": 2.0, "text": "c"}
    ]
    assert engine.embedded[-1].truncates


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "documents"),
        ({"documents": None}, "documents"),
        ({"texts": [1]}, "texts"),
        ({"texts": ["a"], "documents": ["a"]}, "texts"),
        ({"texts": ["a"], "truncate": "end"}, "truncate"),
    ],
)
async def test_invalid_texts_to_rank(
    client: httpx.AsyncClient, engine: FakeEngine, body: dict[str, Any], param: str
) -> None:
    engine.info = RANKER
    reply = await client.post("/rerank", json={"query": "why?", **body})
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == param


@pytest.mark.parametrize(
    ("more", "refused"),
    [
        ({"id": "d1", "index": 0, "title": "t", "metadata": {"page": 3}, "type": "text"}, None),
        ({"image": None}, None),
        ({"image": "data:,"}, "documents[1].image"),
        ({"snippet": "b"}, "documents[1].snippet"),
        ({"type": "image"}, "documents[1].type"),
    ],
)
async def test_fields_of_a_document(
    client: httpx.AsyncClient, engine: FakeEngine, more: dict[str, Any], refused: str | None
) -> None:
    engine.info = RANKER
    reply = await rank(client, ["a", {"text": "b", **more}])
    assert reply.status_code == (200 if refused is None else 400)
    assert reply.json().get("error", {}).get("param") == refused


@pytest.mark.parametrize("documents", [[], "a", [1], [{"title": "a"}], ["a"] * 2049])
async def test_invalid_documents(client: httpx.AsyncClient, engine: FakeEngine, documents: Any) -> None:
    engine.info = RANKER
    reply = await rank(client, documents)
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == "documents"


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bert(tmp_path_factory.mktemp("bert") / "bert.gguf")


@pytest.fixture
async def real(plan_on_cpu: PlanOnCpu, bert: Path) -> AsyncIterator[EngineClient]:
    async with running(plan_on_cpu(bert), "bert") as client:
        yield client


async def test_openais_sdk_and_llama_cpps_own_embeddings(real: EngineClient, bert: Path) -> None:
    model = llama_cpp.Llama(str(bert), embedding=True, n_ctx=512, n_ubatch=512, n_threads=1, verbose=False)
    expected = model.embed(TEXTS, normalize=True)
    model.close()
    async with listening(real) as url:
        strictly = async_openai_sdk(url, _strict_response_validation=True)
        async with async_openai_sdk(url) as sdk, strictly as strict:
            as_floats = await strict.embeddings.create(model="bert", input=TEXTS, encoding_format="float")
            # the SDK's own choice is base64, which its strict parsing does not know
            as_base64 = await sdk.embeddings.create(model="", input=TEXTS)
            with pytest.raises(openai.BadRequestError, match="has 600 tokens and a text may have 512") as e:
                await sdk.embeddings.create(model="bert", input=[[5] * 600])
            assert e.value.code == "context_length_exceeded"
            assert isinstance(e.value.body, dict)
            assert (e.value.body["n_prompt_tokens"], e.value.body["n_ctx"]) == (600, 512)
            with pytest.raises(openai.BadRequestError, match="writes no text"):
                await sdk.completions.create(model="bert", prompt="hi")
    for reply in (as_base64, as_floats):
        np.testing.assert_allclose([each.embedding for each in reply.data], expected, atol=1e-5)
        assert [each.index for each in reply.data] == list(range(len(TEXTS)))
        assert reply.usage.prompt_tokens > 5 * len(TEXTS)


async def test_a_client_that_goes_away(real: EngineClient) -> None:
    async with listening(real) as url, http_client(url) as client:
        body = {"model": "", "input": [[5] * 500] * 1000}
        with pytest.raises(httpx.ReadTimeout):
            await client.post("/v1/embeddings", json=body, timeout=httpx.Timeout(PATIENCE_S, read=0.05))
        assert (await client.post("/v1/embeddings", json={"model": "", "input": "a"})).status_code == 200
        assert real.stats.n_prompt_tokens < 1000 * 500


async def test_requests_in_flight_finish_before_the_end(real: EngineClient) -> None:
    request = EmbeddingRequest(id="a", inputs=((5,) * 500,) * 40)
    answering = asyncio.create_task(real.embed(request))
    await asyncio.sleep(0)  # by now it is sent
    await real.drain(PATIENCE_S)
    assert len((await answering).n_tokens) == 40
    with pytest.raises(EngineDied, match="shutting down"):
        await real.embed(request)


async def test_a_real_vector_for_each_token(plan_on_cpu: PlanOnCpu, tmp_path: Path) -> None:
    """As many as the tokens of each text, by routes of llama-server alone."""
    path = write_bert(tmp_path / "bert.gguf")
    plan = plan_on_cpu(path, pooling=Pooling.NONE)
    async with listening_with(plan, "bert") as url, http_client(url) as client:
        reply = (await client.post("/embeddings", json={"input": TEXTS})).json()
        counts = [
            len(
                (await client.post("/tokenize", json={"content": text, "add_special": True})).json()["tokens"]
            )
            for text in TEXTS
        ]
        refused = await client.post("/v1/embeddings", json={"input": TEXTS})
    assert [len(each["embedding"]) for each in reply] == counts
    lengths = [float(np.linalg.norm(row)) for each in reply for row in each["embedding"]]
    assert not np.allclose(lengths, 1)
    assert refused.status_code == 400


async def test_a_real_reranker(plan_on_cpu: PlanOnCpu, tmp_path: Path) -> None:
    path = write_bert(tmp_path / "rank.gguf", pooling=gguf.PoolingType.RANK)
    body = {"query": "a dog", "documents": TEXTS, "top_n": 5}
    async with listening_with(plan_on_cpu(path), "bert") as url, http_client() as client:
        reply = await client.post(f"{url}/v1/rerank", json=body)
        of_tei = {"query": "a dog", "texts": TEXTS, "top_n": 5, "raw_scores": True}
        ranked = (await client.post(f"{url}/reranking", json=of_tei)).json()
        assert [each["index"] for each in ranked] == [each["index"] for each in reply.json()["results"]]
    scores = [each["relevance_score"] for each in reply.json()["results"]]
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) == 5
