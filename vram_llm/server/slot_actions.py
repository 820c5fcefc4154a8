"""llama-server's POST /slots/{id_slot}?action=save, restore or erase."""

from typing import Annotated, ClassVar
from uuid import uuid4

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel

from vram_llm.engine.slot_order import SlotAction, SlotDone, SlotOrder
from vram_llm.errors import RequestError
from vram_llm.server.api_keys import current_key
from vram_llm.server.client_fields import IGNORED
from vram_llm.server.errors import MissingField, NotSupported
from vram_llm.server.generation import while_connected
from vram_llm.server.known_fields import Fields
from vram_llm.server.openapi import body_route
from vram_llm.server.read_body import read_fields
from vram_llm.server.replies import PRESENT
from vram_llm.server.schemas import check_slot
from vram_llm.server.serving_context import ServingContext

_FORBIDDEN = frozenset('/\\:*?"<>|\uff0e\u2215\u2216\ufffd\ufeff')
_MOST_NAME_BYTES = 255


class SlotFields(Fields):
    """POST /slots/{id_slot}: the file in the folder of --slot-save-path; to erase, none."""

    ignored: ClassVar[frozenset[str]] = IGNORED

    model: str | None = None
    filename: str | None = None


class SlotTimings(BaseModel):
    """The time that an action on a slot took, in milliseconds."""

    save_ms: Annotated[float | None, PRESENT] = None
    restore_ms: Annotated[float | None, PRESENT] = None


class SlotReply(BaseModel):
    """The reply, with llama-server's fields: tokens saved, restored or erased, and bytes of the file."""

    id_slot: int
    filename: Annotated[str | None, PRESENT] = None
    n_saved: Annotated[int | None, PRESENT] = None
    n_written: Annotated[int | None, PRESENT] = None
    n_restored: Annotated[int | None, PRESENT] = None
    n_read: Annotated[int | None, PRESENT] = None
    n_erased: Annotated[int | None, PRESENT] = None
    timings: Annotated[SlotTimings | None, PRESENT] = None


def slot_actions_router(serving: ServingContext) -> APIRouter:
    """The route. A slot belongs to the API key whose request ran there last, and so do the files."""
    router = APIRouter(tags=["slots"])

    @router.post("/slots/{id_slot}", **body_route("Save, restore or erase a slot", SlotFields, SlotReply))
    async def act(id_slot: str, http: Request, action: Annotated[str, Query()] = "") -> Response:
        folder = serving.config.slot_save_path
        if folder is None:
            raise NotSupported(
                "this server does not save, restore or erase slots; start it with --slot-save-path FOLDER"
            )
        if action not in set(SlotAction):
            raise RequestError("'action' must be save, restore or erase", "action")
        has_body = http.headers.get("content-length", "0") != "0" or "transfer-encoding" in http.headers
        fields = await read_fields(SlotFields, http) if has_body else SlotFields()
        info = serving.generation_model(fields.model)
        if not id_slot.isdecimal() or len(id_slot) > 9:
            raise RequestError(f"'{id_slot[:100]}' is not the number of a slot", "id_slot")
        number, key = check_slot(int(id_slot), info.parallel), current_key.get()
        order = SlotOrder(
            id=f"slot-{uuid4().hex}",
            action=SlotAction(action),
            slot=number,
            path="" if action == SlotAction.ERASE else str(folder.resolve() / _name(fields.filename)),
            owner=key.name if key.cache_namespace else "",
            namespace=key.cache_namespace,
        )
        done = await while_connected(http.receive, serving.engine.order_slot(order))
        if done is None:
            return Response(status_code=499)  # the client is gone, and the order is cancelled
        reply = _reply(SlotAction(action), number, fields.filename, done)
        return Response(reply.model_dump_json(exclude_none=True), media_type="application/json")

    return router


def _name(filename: str | None) -> str:
    """The name of a file in the folder, by llama.cpp's rules (fs_validate_filename). Raises RequestError."""
    if filename is None:
        raise MissingField("Missing required parameter: 'filename'", "filename")
    is_plain = not any(char in _FORBIDDEN or ord(char) < 32 or 127 <= ord(char) < 160 for char in filename)
    is_trimmed = filename.strip(" ") == filename and not filename.endswith(".")
    n_bytes = len(filename.encode("utf-8", "surrogatepass"))
    if not (is_plain and is_trimmed and ".." not in filename and 0 < n_bytes <= _MOST_NAME_BYTES):
        raise RequestError(
            "'filename' must be the bare name of a file in the folder of --slot-save-path, without "
            f"separators, '..' and signs that some systems forbid, at most {_MOST_NAME_BYTES} bytes",
            "filename",
        )
    return filename


def _reply(action: SlotAction, number: int, filename: str | None, done: SlotDone) -> SlotReply:
    ms = 1000 * done.seconds
    match action:
        case SlotAction.SAVE:
            return SlotReply(
                id_slot=number, filename=filename, n_saved=done.n_tokens, n_written=done.n_bytes,
                timings=SlotTimings(save_ms=ms),
            )  # fmt: skip
        case SlotAction.RESTORE:
            return SlotReply(
                id_slot=number, filename=filename, n_restored=done.n_tokens, n_read=done.n_bytes,
                timings=SlotTimings(restore_ms=ms),
            )  # fmt: skip
        case SlotAction.ERASE:
            return SlotReply(id_slot=number, n_erased=done.n_tokens)
