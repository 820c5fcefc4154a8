"""The question of POST /plan, and what may be asked."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from vram_llm.server.known_fields import Fields

MAX_RIGS = 16
MAX_RIG_CHARS = 200
KvType = Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "iq4_nl", "q4_1", "q4_0"]
ObjectiveName = Literal["latency", "throughput", "context", "balance"]
_Rig = Annotated[str, Field(min_length=1, max_length=MAX_RIG_CHARS)]


class PlanFields(Fields):
    """POST /plan: the served model on other devices, or with other settings.

    `devices` are written as for `--gpu`: "RTX 4090", "2x RTX 3060 12GB", "24GB@1008GB/s"; without them, the
    devices are this machine's as they were when the model was planned. Other fields that are left out are as
    in the served plan. `n_ctx` counts the tokens of all `parallel` sequences; 0 is the trained length.
    """

    devices: Annotated[list[_Rig], Field(min_length=1, max_length=MAX_RIGS)] | None = None
    n_ctx: Annotated[int, Field(ge=0, le=2**27)] | None = None
    kv_type: KvType | None = None  # of K and V
    reserve_bytes: Annotated[int, Field(ge=0, le=2**50)] | None = None
    objective: ObjectiveName | None = None
    parallel: Annotated[int, Field(ge=1, le=256)] | None = None


class PlanOptionsReply(BaseModel):
    """GET /plan: what POST /plan accepts, and the served plan's values."""

    cards: list[str]  # of the catalog
    kv_types: list[str]
    objectives: list[str]
    n_ctx_train: int | None
    served: PlanFields
