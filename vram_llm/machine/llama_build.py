"""The processor that a build of llama.cpp is made for, compared with this one. Pure functions."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from vram_llm.machine.health_warnings import HealthWarning

# By ggml's name of a feature (ggml_backend_cpu_get_features): its name among a host's instructions.
_INSTRUCTIONS = {
    "AVX": "avx",
    "AVX2": "avx2",
    "AVX512": "avx512",
    "AVX512_VNNI": "avx512_vnni",
    "AMX_INT8": "amx",
    "NEON": "neon",
    "DOTPROD": "dotprod",
    "MATMUL_INT8": "i8mm",
    "SVE": "sve",
}
_UNWANTED = "AMX_INT8"  # its kernels crash on some virtual machines, so `make setup` never builds them


@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaBuild:
    """The installed llama.cpp."""

    loads: bool
    back_ends: tuple[str, ...] = ()  # ggml's names: "CUDA", "CPU", "RPC"
    features: dict[str, dict[str, str]] = field(default_factory=dict)  # by back end: {"AVX2": "1"}
    libraries: tuple[str, ...] = ()  # of drivers: "libcudart.so.12.8.90", "libnccl.so.2.27.5"
    uses_nccl: bool = False


def parse_features(system_info: str) -> dict[str, dict[str, str]]:
    """The features of each back end in llama_print_system_info's line.

    "CPU : AVX = 1 | AVX2 = 1 | CUDA : ARCHS = 860,890 | " gives {"CPU": {"AVX": "1", ...}, "CUDA": ...}.
    """
    found: dict[str, dict[str, str]] = {}
    features: dict[str, str] = {}
    for part in system_info.split("|"):
        back_end, colon, feature = part.rpartition(" : ")
        if colon:
            features = found.setdefault(back_end.strip(), {})
        name, _, value = feature.partition("=")
        if name.strip() and value.strip():
            features[name.strip()] = value.strip()
    return found


def build_warnings(build: LlamaBuild, instructions: Iterable[str] | None) -> tuple[HealthWarning, ...]:
    """Warnings on a build whose instructions differ from the processor's; None: the processor is unknown."""
    built = build.features.get("CPU")
    if not built or instructions is None:
        return ()
    present = set(instructions)
    on = {feature for feature, value in built.items() if value == "1"}
    unused = [
        feature
        for feature, name in _INSTRUCTIONS.items()
        if name in present and feature not in on and feature != _UNWANTED
    ]
    lacking = [feature for feature, name in _INSTRUCTIONS.items() if feature in on and name not in present]
    found = []
    if lacking:
        found.append(
            HealthWarning(
                kind="foreign_instructions",
                text=f"llama.cpp is built with {' and '.join(lacking)}, which this processor lacks, so it "
                "crashes at the first decode: build it on this computer (`make setup`).",
                stops_serving=True,
            )
        )
    if unused:
        found.append(
            HealthWarning(
                kind="unused_instructions",
                text=f"llama.cpp is built without {' and '.join(unused)}, which this processor has, so "
                "layers on the CPU are slower: build it on this computer (`make setup`).",
            )
        )
    return tuple(found)
