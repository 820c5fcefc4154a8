"""Two models on two nodes of Ray on this computer, which the test starts and ends: `make ray` runs it."""

import asyncio
import importlib.util
from pathlib import Path
from time import monotonic

import httpx
import psutil
import pytest

from bench.ray_environment import ROOT
from bench.ray_nodes import MODELS, Answer, Cluster, answer, on_cluster, write_models
from tests.patience import PATIENCE_S, looks, soon

if importlib.util.find_spec("ray") is None:
    pytest.skip(
        "Ray is not installed here: `make ray` installs it into .venv-ray and runs this test",
        allow_module_level=True,
    )

pytestmark = [pytest.mark.process, pytest.mark.filterwarnings("ignore")]  # Ray's own warnings

N_REQUESTS = 12  # for each model; its replicas have four slots each
N_TOKENS = 96


def test_requests_outlive_the_loss_of_a_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams come through OpenAI's SDK. The other node answers requests that wait on the lost one."""
    from vram_llm.fleet.ray.ray_package import import_ray

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    import_ray()  # before the nodes: it sets their variables
    write_models(tmp_path)
    with on_cluster(tmp_path, replicas=2) as cluster:
        children = psutil.Process().children(recursive=True)
        assert "raylet" in {child.name() for child in children}
        asyncio.run(_ask_and_lose_a_node(cluster))
    for _ in looks():
        left = [child for child in children if child.is_running()]
        if not left:
            return
    raise AssertionError(f"the cluster has left {left}")


async def _ask_and_lose_a_node(cluster: Cluster) -> None:
    listed = httpx.get(f"{cluster.url}/v1/models", timeout=PATIENCE_S).json()["data"]
    assert {card["id"]: (card["status"]["value"], card["replicas"]) for card in listed} == {
        MODELS[0]: ("loaded", 2),
        MODELS[1]: ("loaded", 1),
    }
    begun = {model: asyncio.Event() for model in MODELS}
    asked = [
        asyncio.create_task(answer(cluster.url, model, f"{i} {model}", N_TOKENS, begun[model].set))
        for model in MODELS
        for i in range(N_REQUESTS)
    ]
    for event in begun.values():
        await soon(event.wait())
    lost_at = monotonic()
    await asyncio.to_thread(cluster.kill_node)
    answers: list[Answer] = await soon(asyncio.gather(*asked))
    assert [each.n_tokens for each in answers] == [N_TOKENS] * len(asked)
    assert any(each.times[0] > lost_at for each in answers)  # it had waited
    status = httpx.get(f"{cluster.url}/status", timeout=PATIENCE_S).json()
    assert status["engine"]["n_restarts"] > 0  # the loss was noticed
