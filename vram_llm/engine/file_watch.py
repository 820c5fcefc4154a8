"""Looks at the files that an engine has loaded: are they still there, as they were?"""

import asyncio
import logging
from collections.abc import Callable, Iterable

from vram_llm.model.file_identity import FileIdentity, touch_of

log = logging.getLogger("vram_llm.engine")

EVERY_S = 2.0


async def watch_files(files: Iterable[FileIdentity], on_change: Callable[[tuple[str, ...]], None]) -> None:
    """Call `on_change` with a sentence for each file that is not as it was, at each change, for ever."""
    files = tuple(files)
    known: tuple[str, ...] = ()
    while True:
        await asyncio.sleep(EVERY_S)  # between two looks at the files
        touches = tuple(touch for touch in await asyncio.to_thread(_look, files) if touch is not None)
        if touches != known:
            for touch in touches:
                if touch not in known:
                    log.warning("%s", touch)
            known = touches
            on_change(touches)


def _look(files: tuple[FileIdentity, ...]) -> list[str | None]:
    return [touch_of(file) for file in files]
