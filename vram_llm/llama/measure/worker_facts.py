"""The child process that asks a worker: `python -m vram_llm.llama.measure.worker_facts HOST:PORT [no-link]`.

It prints the facts as JSON: a worker that does not speak the protocol makes llama.cpp abort.
"""

import sys

import msgspec

from vram_llm.errors import ModelRefused, VramLLMError
from vram_llm.llama import rpc
from vram_llm.llama.measure.calibrate_wire import fitted_link
from vram_llm.machine.types import Link


def worker_facts(endpoint: str, *, measures_link: bool) -> rpc.WorkerFacts:
    """The devices of a worker, and the link to it. Raises WorkerUnreachable, NotBuilt."""
    from vram_llm.llama import bindings as b

    handles = rpc.connect(endpoint)
    devices = []
    for handle in handles:
        props = b.props_of(handle)
        devices.append(
            rpc.WorkerDevice(
                total_bytes=props.memory_total,
                free_bytes=props.memory_free,
                alignment_bytes=b.buft_alignment(b.dev_buffer_type(handle)),
            )
        )
    return rpc.WorkerFacts(tuple(devices), _link(handles[0]) if handles and measures_link else None)


def _link(handle: int) -> Link | None:
    """The link, as its first device shows it; None if that has no room to measure with."""
    from vram_llm.llama.measure.transfer import quick_transfers

    try:
        return fitted_link(quick_transfers(handle))
    except ModelRefused:
        return None


if __name__ == "__main__":
    try:
        endpoint, *options = sys.argv[1:]
        facts = worker_facts(endpoint, measures_link="no-link" not in options)
        sys.stdout.buffer.write(msgspec.json.encode(facts))
    except VramLLMError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
