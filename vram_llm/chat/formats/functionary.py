""">>>RECIPIENT, a newline, and the text for it: Functionary 3.2 (meetkai/functionary-medium-v3.2).

`all` is the person. The prompt ends with the first ">>>". In an answer, the mark counts only before `all` or
a tool's name.
"""

from vram_llm.chat.formats.arguments import Schemas
from vram_llm.chat.reader import ParseFunction, Reader, Wait

MARK = ">>>"
ALL = "all"


def functionary(schemas: Schemas) -> ParseFunction:
    """Calls and content, each after its recipient."""

    def parse(r: Reader) -> Wait[None]:
        yield from r.take(MARK)
        marker = ""
        while True:
            r.mark()
            recipient = yield from _recipient(r, schemas)
            if recipient and recipient != ALL and (yield from r.spaces()) == "{":
                r.start_call(recipient)
                if (yield from r.json(r.arguments)):
                    r.end_call()
            elif recipient == ALL:
                r.commit()
            else:
                r.back()
                r.content(marker)
            marker = yield from r.until(MARK, to=r.content)
            if not marker:
                return

    return parse


def _recipient(r: Reader, schemas: Schemas) -> Wait[str]:
    for name in (ALL, *schemas):
        if (yield from r.take(f"{name}\n")):
            return name
    return ""
