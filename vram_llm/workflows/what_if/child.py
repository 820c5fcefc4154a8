"""The process that makes what-if plans: `python -m vram_llm.workflows.what_if.child`.

Orders come in lines of JSON on standard input, and answers go to standard output in the same way.
"""

import contextlib
import os
import signal
import sys
from pathlib import Path
from typing import BinaryIO

import msgspec

from vram_llm.errors import VramLLMError
from vram_llm.parent_death import end_with_parent
from vram_llm.workflows.what_if.order import WhatIfOrder, carry_out

REFUSED, PLANNED = b"-", b"+"  # the first byte of an answer; a sentence or a PlanReply follows
_NICE = 5  # streams go first


def main() -> None:
    """Carry out orders until the server closes its end."""
    end_with_parent()
    for number in (signal.SIGINT, signal.SIGTERM):  # the server decides when it ends
        signal.signal(number, signal.SIG_IGN)
    os.nice(_NICE)
    with contextlib.suppress(OSError):  # before the server, if the kernel has to choose
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # nothing else may come between the answers
    _work(sys.stdin.buffer, answers)


def _work(orders: BinaryIO, answers: BinaryIO) -> None:
    for line in orders:
        order = msgspec.json.decode(line, type=WhatIfOrder)
        try:
            answer = PLANNED + carry_out(order).model_dump_json().encode()
        except VramLLMError as error:
            answer = REFUSED + msgspec.json.encode(str(error))
        answers.write(answer + b"\n")


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):  # the server has ended
        main()
