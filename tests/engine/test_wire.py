"""Messages are the same after encoding and decoding."""

import pytest

from tests.conftest import PlanOnCpu
from vram_llm.engine import wire
from vram_llm.engine.model_info import ModelInfo
from vram_llm.engine.request import DecodeTick, FinishReason, Infill, Request, SamplingParams, TokenEvent
from vram_llm.engine.stats import EngineStats
from vram_llm.model.fim_tokens import FimTokens
from vram_llm.planner.estimates import MemoryUse

INFO = ModelInfo(
    name="m", path="/m.gguf", architecture="llama", parameters=2**40, size_bytes=2**41, n_vocab=5, n_ctx=256,
    n_ctx_train=512, parallel=2, chat_template="{{ 'é' }}", bos_token="<s>", eos_token="</s>", created=17,
    memory={"GPU0": MemoryUse(2**35, 1, 2)}, fim=FimTokens(4, 3, 2), ends=(1, 4),
)  # fmt: skip

SAMPLING = SamplingParams(temperature=0.5, logit_bias={7: -100.0, 0: 2.5}, seed=-(2**63))

TO_ENGINE = [
    wire.Submit(Request(id="a", prompt="Grüße\n世界\0", stop=("x", "y"), max_tokens=0)),
    wire.Submit(Request(id="b", prompt=(1, 2, 2**31), add_bos=False, ignore_eos=True, sampling=SAMPLING)),
    wire.Submit(Request(id="c", prompt=())),
    wire.Submit(Request(id="d", prompt="x", marks=("<tool_call>",))),
    wire.Submit(Request(id="e", prompt="", infill=Infill(prefix="a", suffix="b", files=(("c", "d"),)))),
    wire.Submit(
        Request(id="f", prompt="", sampling=SamplingParams(samplers=("top_k", "infill")), n_indent=3)
    ),
    wire.Cancel("a"),
    wire.Tokenize("a", "Grüße", add_special=True, parse_special=False),
    wire.Detokenize("b", [0, 2**31]),
    wire.Stop(),
]
FROM_ENGINE = [
    wire.Loading(0.25),
    wire.Ready(INFO),
    wire.StepEvents([], EngineStats()),
    wire.StepEvents(
        [TokenEvent(id="a", text="�", token_ids=(1, 2)), TokenEvent(id="b", finish_reason=FinishReason.STOP)],
        EngineStats(n_steps=2**40, llama_s=1.5, n_cells_used=7),
    ),
    DecodeTick(["a", "�"], [1, 2], ["one", "other"]),
    DecodeTick(["a", ""], [1, 2]),
    wire.Tokens("a", [1, 2]),
    wire.Pieces("b", [b"", b"\xc3"]),
    wire.Failed("worker gone", 21),
]


def _body(frame: bytes) -> bytes:
    body = frame[wire.HEADER_BYTES :]
    assert wire.body_length(frame[: wire.HEADER_BYTES]) == len(body)
    return body


@pytest.mark.parametrize("message", TO_ENGINE)
def test_to_the_engine(message: wire.ToEngine) -> None:
    assert wire.decode_to_engine(_body(wire.pack(message))) == message


@pytest.mark.parametrize("message", FROM_ENGINE)
def test_from_the_engine(message: wire.FromEngine) -> None:
    assert wire.decode_from_engine(_body(wire.pack(message))) == message


def test_a_plan_is_unchanged(plan_on_cpu: PlanOnCpu) -> None:
    message = wire.Start(plan_on_cpu(), "name")
    assert wire.decode_to_engine(_body(wire.pack(message))) == message
