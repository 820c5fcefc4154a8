"""llama-server's switches in the address of a request: `?autoload=false`, `?reload=1`."""

from vram_llm.errors import RequestError


def query_switch(name: str, value: str, *, default: bool) -> bool:
    """The state of a switch; `default` if `value` is empty.

    Raises RequestError for other words, such as "maybe", which llama-server takes for "false".
    """
    if value not in ("", "1", "true", "0", "false"):
        raise RequestError(f"{name} is true or false, not '{value[:40]}'", name)
    return value in ("1", "true") if value else default
