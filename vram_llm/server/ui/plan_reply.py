"""The answer of POST /plan. The process that plans makes it, so this file imports nothing of the server."""

from pydantic import BaseModel

from vram_llm.planner.speed_range import SpeedRange


class WhatIfBytes(BaseModel):
    """Planned bytes of a device or of the host, by kind. The reserve is kept free."""

    weights_bytes: int
    context_bytes: int
    compute_bytes: int
    overhead_bytes: int = 0
    reserve_bytes: int
    companions_bytes: int


class WhatIfPart(BaseModel):
    """Weights of some layers that are here although their layers are elsewhere."""

    part: str | None  # "experts", "ffn", ...
    layers: list[int]


class WhatIfDevice(BaseModel):
    """A device. `over_bytes` are missing on it; `layers` are the first and the last of its layers."""

    index: int
    name: str
    total_bytes: int
    free_bytes: int
    planned: WhatIfBytes
    over_bytes: int
    layers: tuple[int, int] | None
    moved: list[WhatIfPart]
    experts_bytes: int


class WhatIfHostUse(BaseModel):
    """The host, with the first and the last of the layers that it computes as a whole."""

    total_bytes: int
    available_bytes: int
    planned: WhatIfBytes
    over_bytes: int
    layers: tuple[int, int] | None
    moved: list[WhatIfPart]
    experts_bytes: int


class PlanReply(BaseModel):
    """The answer of POST /plan. Speeds are predictions; their `basis` is the least trusted fact in them.

    `method` names the meter of the bytes: "analytic" here, which is quick and errs on the high side;
    `vram-llm plan` confirms its plans by llama.cpp's dry run.
    """

    fits: bool
    method: str
    n_ctx: int
    parallel: int
    kv_type: str
    objective: str
    n_layers: int
    devices: list[WhatIfDevice]
    host: WhatIfHostUse
    short_bytes: int  # missing on all devices and the host; 0: it fits
    tokens_per_s: float | None  # of one stream
    tokens_per_s_range: SpeedRange | None  # nine of ten measurements are in it
    prompt_tokens_per_s: float | None
    basis: str | None
    depth: int | None  # tokens of context at which the speed is predicted
    notes: list[str]
    seconds: float  # that planning took
