"""Orders about the slots that clients see: save one in a file, restore one from a file, erase one."""

from enum import StrEnum

import msgspec

from vram_llm.errors import RequestError, VramLLMError


class SlotAction(StrEnum):
    """The actions on a slot, in llama-server's words."""

    SAVE = "save"
    RESTORE = "restore"
    ERASE = "erase"


class SlotOrder(msgspec.Struct, tag=True, frozen=True, kw_only=True):
    """An action on the slot of this number. Answered by SlotDone with the same id.

    `path` is the file of a saved slot, "" to erase. `owner` is the API key whose slots and files they are,
    the `client` of its requests, "" if all share them; `namespace` is that of its requests, see Request.
    """

    id: str
    action: SlotAction
    slot: int
    path: str = ""
    owner: str = ""
    namespace: int = 0


class SlotDone(msgspec.Struct, tag=True, frozen=True):
    """Answers SlotOrder: the tokens saved, restored or erased, the file's bytes, and the time it took.

    `error` is set if nothing was done, with `error_param` if the order is at fault; else the engine or its
    disk is.
    """

    id: str
    n_tokens: int = 0
    n_bytes: int = 0
    seconds: float = 0.0
    error: str | None = None
    error_param: str | None = None

    def checked(self) -> "SlotDone":
        """Itself, if it was done. Raises RequestError if the order is at fault, else VramLLMError."""
        if self.error is None:
            return self
        if self.error_param is None:
            raise VramLLMError(self.error)
        raise RequestError(self.error, self.error_param)
