"""An RPC worker that is slow evenly: `python -m bench.slow_worker PORT FACTOR`.

Each graph takes FACTOR times the processor time that it needs: the worker computes it, and waits for the
rest. A quota of processor time (bench/rig.py) lets a worker that often waits run at full speed at times, and
lets it wait a millisecond or two longer at others; a tensor split waits several times a token.
"""

import ctypes
import sys
import time

_COARSE_S = 100e-6  # a sleep may end this much later


def main(port: str, factor: str) -> None:
    """Serve until the process is killed."""
    from vram_llm.llama import bindings as b
    from vram_llm.llama import rpc
    from vram_llm.llama.dryrun.ggml_structs import Backend, GgmlDevice, callback

    device = b.dev_by_type(b.CPU_DEVICE_TYPE)
    functions = GgmlDevice.from_address(device).iface
    make = ctypes.CFUNCTYPE(b.Pointer, b.Pointer, ctypes.c_char_p)(functions.init_backend)

    def make_slow(of_device: int, options: bytes | None) -> int:
        backend: int = make(of_device, options)
        own = Backend.from_address(backend).iface
        compute = ctypes.CFUNCTYPE(ctypes.c_int, b.Pointer, b.Pointer)(own.graph_compute)

        def compute_slowly(this: int, graph: int) -> int:
            began, used = time.perf_counter(), time.thread_time()
            status: int = compute(this, graph)
            _wait_until(began + float(factor) * (time.thread_time() - used))
            return status

        own.graph_compute = callback(ctypes.c_int, b.Pointer, b.Pointer)(compute_slowly)
        return backend

    functions.init_backend = callback(b.Pointer, b.Pointer, ctypes.c_char_p)(make_slow)
    rpc.serve(f"127.0.0.1:{port}", 1)


def _wait_until(moment: float) -> None:
    time.sleep(max(moment - _COARSE_S - time.perf_counter(), 0))  # leaves the core to the other worker
    while time.perf_counter() < moment:
        pass


if __name__ == "__main__":
    main(*sys.argv[1:])
