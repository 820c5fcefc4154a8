"""Take the pictures of the dashboard in docs/images: desktop, phone, dark.

    python -m scripts.screenshots [FOLDER]

The page, POST /plan and the chat are the real ones, over a scripted engine. The plan is the planner's for the
49B on three cards; the bytes held, the load and the readings of the cards are made up. It needs chromium and
Pillow.
"""

import asyncio
import contextlib
import math
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.async_api import Browser, Page, Route, async_playwright

from tests import zoo
from tests.server.fake_engine import FakeEngine, Step
from tests.server.live import listening
from tests.server.tool_chat import TALKER
from vram_llm._version import __version__
from vram_llm.engine.request import FinishReason, Request, TokenEvent
from vram_llm.machine.detect import what_if
from vram_llm.machine.types import Host
from vram_llm.planner.make_plan import make_plan
from vram_llm.planner.types import Plan, Workload
from vram_llm.server.ui.plan_fields import PlanFields
from vram_llm.server.ui.plan_reply import PlanReply
from vram_llm.server.ui.ports import Ui
from vram_llm.units import GIB, MIB
from vram_llm.workflows.detection import analyze
from vram_llm.workflows.what_if.order import carry_out
from vram_llm.workflows.what_if.planner import WhatIfProcess, order_for

MODEL = "Llama-3_3-Nemotron-Super-49B-v1_5-Q4_K_M"
RIG = "RTX 4090 + RTX 3090 + RTX 3060 12GB"
HOST = Host(name="desk", cores=16, total_bytes=64 * GIB, available_bytes=52 * GIB)
HISTORY_S = 300
STEP_S = 0.045
FOLDER = Path(__file__).resolve().parents[1] / "docs" / "images"
PICTURES: tuple[tuple[str, int, int, Any], ...] = (
    ("dashboard", 1440, 1240, "light"), ("dashboard-dark", 1440, 1240, "dark"),
    ("dashboard-phone", 390, 844, "light"),
)  # fmt: skip
_QUESTION = "Why does a quantised KV cache save memory, and what does it cost?"
_THOUGHTS = "The user asks about KV cache quantisation. Mention bytes per element, then the cost in accuracy."
_ANSWER = """A cache in q8_0 keeps 8.5 bits for each number in place of 16, so the same memory holds nearly \
twice the context.

It costs a little accuracy, and time: the card unpacks the numbers at each step.

```
vram-llm serve MODEL --kv-type q8_0 --n-ctx 65536
```"""


class Clock:
    """Seconds of the made-up load."""

    now = 0


def status_at(second: int, reply: PlanReply) -> dict[str, Any]:
    """A status under a load that comes and goes."""
    wave = 0.5 + 0.5 * math.sin(second / 23) * math.cos(second / 61)
    busy = 0.35 + 0.6 * wave
    devices = []
    for i, device in enumerate(reply.devices):
        planned = device.planned.model_dump()
        own, other = held_bytes(planned) + (-21, 16, 53)[i] * MIB, (612, 9, 9)[i] * MIB
        busy_here = busy * (0.95, 0.75, 0.55)[i]
        devices.append(
            {
                **device.model_dump(),
                "id": f"GPU{i}",
                "backend": "cuda",
                "measured": measured(planned),
                "own_bytes": own,
                "other_bytes": other,
                "free_bytes": device.total_bytes - own - other,
                "utilization": busy_here,
                "memory_utilization": 0.7 * busy_here,
                "temperature_c": (48, 45, 38)[i] + round(20 * busy_here),
                "power_w": (40, 35, 14)[i] + (290, 240, 110)[i] * busy_here,
                "power_limit_w": (450, 350, 170)[i],
                "clock_mhz": (2520, 1785, 1807)[i],
                "throttle_reasons": [],
                "pcie": {"generation": (4, 4, 3)[i], "width": (16, 8, 4)[i], "max_width": (16, 8, 16)[i]},
            }
        )
    n = 1 + round(5 * busy)
    requests = [
        {
            "id": f"chatcmpl-{7919 * (k + 3):08x}{104729 * (k + 11):08x}-0",
            "state": "decode" if k < 4 else "waiting",
            "prompt_tokens": (1840, 612, 12044, 355, 2210, 90)[k],
            "cached_tokens": (1792, 0, 11776, 320, 0, 64)[k],
            "generated_tokens": (412, 96, 38, 771, 0, 0)[k],
            "age_s": (14.2, 4.1, 6.7, 27.9, 1.2, 0.3)[k],
        }
        for k in range(n)
    ]
    assert reply.tokens_per_s is not None
    return {
        "version": __version__,
        "model": {"id": MODEL, "file": f"/models/{MODEL}.gguf", "n_ctx": 131072, "parallel": 4},
        "engine": {"state": "ready", "reason": None, "n_restarts": 0, "uptime_s": 86400 + second},
        "devices": devices,
        "host": {
            **reply.host.model_dump(),
            "measured": measured(reply.host.planned.model_dump()),
            "own_bytes": held_bytes(reply.host.planned.model_dump()) + 80 * MIB,
            "swap_used_bytes": 0,
        },
        "load": {
            "n_running": min(n, 4), "n_waiting": max(n - 4, 0), "kv_usage": 0.2 + 0.6 * wave,
            "prompt_tokens_per_s": 900 * max(0.0, math.sin(second / 11)) * busy,
            "generation_tokens_per_s": reply.tokens_per_s * (0.6 + 1.9 * busy),
            "prefix_hit_rate": 0.55 + 0.2 * wave, "time_to_first_token_s": 0.4 + 0.9 * wave,
            "inter_token_latency_s": 0.04 + 0.03 * busy, "predicted_tokens_per_s": reply.tokens_per_s,
        },
        "totals": {
            "prompt_tokens": 1_204_511 + 300 * second, "generation_tokens": 318_022 + 60 * second,
            "cached_tokens": 2_877_440 + 700 * second, "preemptions": 0, "drafted_tokens": 0,
            "accepted_tokens": 0,
        },
        "requests": requests,
    }  # fmt: skip


def held_bytes(planned: dict[str, int]) -> int:
    """The planned bytes without the reserve."""
    return sum(n_bytes for name, n_bytes in planned.items() if name != "reserve_bytes")


def measured(planned: dict[str, int]) -> dict[str, int]:
    """llama.cpp's buffers: as planned, with a little less for compute."""
    found = {name: planned[name] for name in ("weights_bytes", "context_bytes", "compute_bytes")}
    return found | {"compute_bytes": round(0.96 * found["compute_bytes"])}


def answers(request: Request) -> Sequence[Step]:
    """The scripted answer, as fast as the plan predicts."""
    text = f"<think>{_THOUGHTS}</think>{_ANSWER}"
    pieces = [text[i : i + 5] for i in range(0, len(text), 5)]
    steps: list[Step] = []
    for i, piece in enumerate(pieces):
        steps.append(turn := asyncio.Event())
        asyncio.get_running_loop().call_later(0.4 + i * STEP_S, turn.set)
        event = TokenEvent(
            id=request.id, text=piece, token_ids=(i,), prompt_tokens=31, completion_tokens=i + 1
        )
        steps.append(event)
    end = TokenEvent(
        id=request.id, prompt_tokens=31, cached_tokens=16, completion_tokens=len(pieces),
        finish_reason=FinishReason.STOP,
    )  # fmt: skip
    return [*steps, end]


@contextlib.asynccontextmanager
async def server(plan: Plan) -> AsyncIterator[str]:
    """The URL of a server with the scripted engine."""
    planner = WhatIfProcess(lambda: plan)
    engine = FakeEngine(answers, replace(TALKER, name=MODEL, n_ctx=131072))
    try:
        async with listening(engine, ui=Ui(planner)) as url:
            yield url
    finally:
        await planner.close()


async def fill(page: Page, url: str, reply: PlanReply) -> None:
    """Open the page, let minutes of load pass, ask something, and open the what-if panel."""
    clock = Clock()

    async def status(route: Route) -> None:
        await route.fulfill(json=status_at(clock.now, reply))

    await page.route("**/status", status)
    await page.clock.install()
    await page.goto(url)
    for clock.now in range(HISTORY_S):
        async with page.expect_response("**/status"):
            await page.clock.run_for(1000)
    await page.get_by_label("Message", exact=True).fill(_QUESTION)
    await page.keyboard.press("Enter")
    await page.locator(".message.assistant .note").wait_for()
    await page.get_by_role("heading", name="What if").click()
    await page.clock.run_for(1000)
    await page.locator("#what-if .verdict").wait_for()
    await page.evaluate("document.activeElement.blur()")


async def take(browser: Browser, url: str, reply: PlanReply, folder: Path) -> None:
    """Take all pictures; the what-if panel has one of its own."""
    for name, width, height, scheme in PICTURES:
        page = await browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
        await fill(page, url, reply)
        await page.evaluate("scrollTo(0, 0)")
        await page.screenshot(path=folder / f"{name}.png")
        if name == "dashboard":
            await page.locator("#what-if").screenshot(path=folder / "dashboard-what-if.png")
        await page.close()


async def main() -> None:
    """Take the pictures."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, f"{MODEL}.gguf")
        zoo.write(zoo.as_q4_k_m(zoo.nemotron_49b()), path, "Q4_K")
        machine = what_if([RIG], HOST)
        plan = make_plan(analyze(str(path)), machine, Workload(n_ctx=131072))
        reply = carry_out(order_for(plan, PlanFields()))
        async with async_playwright() as playwright, server(plan) as url:
            browser = await playwright.chromium.launch(
                executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
            )
            await take(browser, url, reply, folder)
            await browser.close()
    for picture in sorted(folder.glob("dashboard*.png")):
        with Image.open(picture) as full:  # 256 colours are enough, in a third of the bytes
            full.convert("RGB").quantize(dither=Image.Dither.NONE).save(picture, optimize=True)
        print(f"{picture.name}: {picture.stat().st_size:,} bytes")


if __name__ == "__main__":
    asyncio.run(main())
