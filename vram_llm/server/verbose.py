"""llama-server's `__verbose`, of which replies have the prompt."""

from typing import Any

from vram_llm.engine.engine_protocol import Engine
from vram_llm.engine.request import Request


async def verbose_object(engine: Engine, request: Request) -> dict[str, Any]:
    """The text of a request's prompt, special tokens included, without images.

    Raises EngineDied, Overloaded.
    """
    prompt = request.prompt
    if isinstance(prompt, str):
        given = await engine.tokenize(
            prompt, add_special=request.add_bos, parse_special=True, images=request.images
        )
        prompt = tuple(given)
    pieces = await engine.pieces([token for token in prompt if token >= 0])
    return {"prompt": b"".join(pieces).decode("utf-8", "replace")}
