"""Plan a GGUF model over unequal GPUs to the byte, and serve it with an OpenAI endpoint.

    import vram_llm

    machine = vram_llm.detect()
    plan = vram_llm.plan("model.gguf", machine, vram_llm.Workload(n_ctx=16_384))
    vram_llm.serve(plan)

Every name below is imported at first use, so that importing the package is fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from vram_llm._version import __version__

if TYPE_CHECKING:
    from vram_llm.engine.model_info import ModelInfo
    from vram_llm.errors import (
        BadHost,
        BadPlan,
        BadSplit,
        DoesNotFit,
        EngineDied,
        ModelFileError,
        ModelNotFound,
        ModelRefused,
        NotBuilt,
        UnknownDevice,
        VramLLMError,
        WorkerUnreachable,
    )
    from vram_llm.machine.types import Device, Host, Machine
    from vram_llm.model.profile import ModelProfile
    from vram_llm.planner.tensor_split import TensorSplit
    from vram_llm.planner.types import Context, Lora, Objective, Placement, Plan, Serving, Workload
    from vram_llm.server.config import ServerConfig
    from vram_llm.workflows.detection import analyze, detect
    from vram_llm.workflows.measurement import bench_model, calibrate, calibrate_disks
    from vram_llm.workflows.memory_floor import memory_floor
    from vram_llm.workflows.planning import compare, plan, pull
    from vram_llm.workflows.quantizations import quantizations
    from vram_llm.workflows.saved_plans import check, load_plan
    from vram_llm.workflows.serving import serve
    from vram_llm.workflows.tuning.run import tune
    from vram_llm.workflows.verification import verify

_MODULES = {
    "vram_llm.engine.model_info": ("ModelInfo",),
    "vram_llm.errors": (
        "BadHost",
        "BadPlan",
        "BadSplit",
        "DoesNotFit",
        "EngineDied",
        "ModelFileError",
        "ModelNotFound",
        "ModelRefused",
        "NotBuilt",
        "UnknownDevice",
        "VramLLMError",
        "WorkerUnreachable",
    ),
    "vram_llm.machine.types": ("Device", "Host", "Machine"),
    "vram_llm.model.profile": ("ModelProfile",),
    "vram_llm.planner.tensor_split": ("TensorSplit",),
    "vram_llm.planner.types": (
        "Context",
        "Lora",
        "Objective",
        "Placement",
        "Plan",
        "Serving",
        "Workload",
    ),
    "vram_llm.server.config": ("ServerConfig",),
    "vram_llm.workflows.detection": ("analyze", "detect"),
    "vram_llm.workflows.measurement": ("bench_model", "calibrate", "calibrate_disks"),
    "vram_llm.workflows.memory_floor": ("memory_floor",),
    "vram_llm.workflows.planning": ("compare", "plan", "pull"),
    "vram_llm.workflows.quantizations": ("quantizations",),
    "vram_llm.workflows.saved_plans": ("check", "load_plan"),
    "vram_llm.workflows.serving": ("serve",),
    "vram_llm.workflows.tuning.run": ("tune",),
    "vram_llm.workflows.verification": ("verify",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "BadHost",
    "BadPlan",
    "BadSplit",
    "Context",
    "Device",
    "DoesNotFit",
    "EngineDied",
    "Host",
    "Lora",
    "Machine",
    "ModelFileError",
    "ModelInfo",
    "ModelNotFound",
    "ModelProfile",
    "ModelRefused",
    "NotBuilt",
    "Objective",
    "Placement",
    "Plan",
    "ServerConfig",
    "Serving",
    "TensorSplit",
    "UnknownDevice",
    "VramLLMError",
    "WorkerUnreachable",
    "Workload",
    "__version__",
    "analyze",
    "bench_model",
    "calibrate",
    "calibrate_disks",
    "check",
    "compare",
    "detect",
    "load_plan",
    "memory_floor",
    "plan",
    "pull",
    "quantizations",
    "serve",
    "tune",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
