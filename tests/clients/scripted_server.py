"""The real server in front of a scripted model: python -m tests.clients.scripted_server [--port N]

Prints its address when it answers. Clients whose own prompts are longer than the built-in model's context, or
which want tools of their own called, are tried with it.
"""

import argparse
import asyncio
from typing import cast

from tests.clients.scripted_engine import ScriptedEngine
from vram_llm.engine.client import EngineClient
from vram_llm.engine.model_info import ModelInfo
from vram_llm.server.config import ServerConfig
from vram_llm.server.run import serve
from vram_llm.server.sockets import bind


def main() -> None:
    """Serve until Ctrl+C."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    config = ServerConfig(port=parser.parse_args().port)
    sock = bind(config.host, config.port)
    host, port = sock.getsockname()

    def announce(info: ModelInfo) -> None:
        print(f"serving {info.name} at http://{host}:{port}/v1", flush=True)

    asyncio.run(serve(cast(EngineClient, ScriptedEngine()), [sock], config, on_ready=announce))


if __name__ == "__main__":
    main()
