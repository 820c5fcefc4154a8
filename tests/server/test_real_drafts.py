"""The counts of an MTP head's drafts over HTTP: usage and timings, metrics, /status, /slots and `watch`."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import PlanOnCpu
from tests.patience import PATIENCE_S
from tests.server.live import in_thread, listening_with
from tests.zoo.heads import HEADS, write_agreeing
from tests.zoo.loadable import with_vocabulary
from vram_llm.cli.watching.snapshot import of_server

pytestmark = pytest.mark.process

ASKED: dict[str, Any] = {"model": "", "prompt": " w300 w301 w302", "max_tokens": 40, "temperature": 0}


@pytest.fixture(scope="module", params=HEADS)
def client(
    request: pytest.FixtureRequest, plan_on_cpu: PlanOnCpu, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[httpx.Client]:
    path: Path = tmp_path_factory.mktemp("drafts") / "model.gguf"
    plan = plan_on_cpu(write_agreeing(with_vocabulary(HEADS[request.param]()), path), n_outputs_max=24)
    plan = replace(plan, context=replace(plan.context, n_mtp=3))
    with (
        in_thread(listening_with(plan, "drafting")) as url,
        httpx.Client(base_url=url, timeout=PATIENCE_S) as client,
    ):
        yield client


def answered(client: httpx.Client, *, stream: bool) -> dict[str, Any]:
    """The reply to a completion, or the fields of a stream's chunks, the latest of each."""
    fields = {**ASKED, "ignore_eos": True, "stream": stream}
    if not stream:
        reply: dict[str, Any] = client.post("/v1/completions", json=fields).raise_for_status().json()
        return reply
    fields["stream_options"] = {"include_usage": True}
    lines = client.post("/v1/completions", json=fields).raise_for_status().text.splitlines()
    chunks = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    return {name: value for chunk in chunks for name, value in chunk.items() if value is not None}


def counted(client: httpx.Client, name: str) -> dict[str, float]:
    """The values of a metric by its labels."""
    lines = client.get("/metrics").raise_for_status().text.splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if line.startswith(name))
    return {labels[len(name) :]: float(value) for labels, value in pairs}


def test_every_place_counts_the_same_drafts(client: httpx.Client) -> None:
    """How many there are depends on the speed of the machine; the first answer has one at least."""
    n_drafted = n_accepted = 0
    for stream in (False, True, False):
        reply = answered(client, stream=stream)
        details, timings = reply["usage"]["completion_tokens_details"], reply["timings"]
        accepted, rejected = (
            details.get(f"{kind}_prediction_tokens", 0) for kind in ("accepted", "rejected")
        )
        assert reply["usage"]["completion_tokens"] == 40
        assert (timings.get("draft_n", 0), timings.get("draft_n_accepted", 0)) == (
            accepted + rejected,
            accepted,
        )
        n_drafted, n_accepted = n_drafted + accepted + rejected, n_accepted + accepted
    assert 0 < n_accepted <= n_drafted
    by_source = counted(client, "vram_llm:drafted_tokens_total")
    assert by_source['{source="model"}'] > 0
    assert sum(by_source.values()) == n_drafted
    taken = sum(counted(client, "vram_llm:accepted_tokens_total").values())
    assert 0 < taken <= n_accepted  # the last draft of an answer may go beyond its end
    for prefix in ("vllm", "llamacpp"):
        assert list(counted(client, f"{prefix}:spec_decode_num_draft_tokens_total").values()) == [n_drafted]
        assert list(counted(client, f"{prefix}:spec_decode_num_accepted_tokens_total").values()) == [taken]
    body = client.get("/status").raise_for_status().content
    totals = of_server("http://here", body).totals
    assert totals is not None
    assert (totals.drafted_tokens, totals.accepted_tokens) == (n_drafted, taken)
    assert all(slot["speculative"] for slot in client.get("/slots").raise_for_status().json())
