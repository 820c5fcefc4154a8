"""The description of one format of calls."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from vram_llm.chat.formats import hermes
from vram_llm.chat.formats.arguments import Schemas
from vram_llm.chat.formats.call_json import ID, CallJson, calls_text, json_members
from vram_llm.chat.formats.json_calls import objects
from vram_llm.chat.formats.tagged import CallTags, tagged
from vram_llm.chat.reader import ParseFunction, call_id

Calls = Iterable[tuple[str, str]]  # names, and the JSON of arguments


def _never(_: str) -> bool:
    return False


def _as_given(given: str, _name: str, _index: int) -> str:
    return given


@dataclass(frozen=True, slots=True)
class CallFormat:
    """One format of calls.

    `parse_function` makes the function that reads answers, from the schemas of tools. `marks`: the special
    tokens that the parser must see. `is_in`: whether the source of a template that writes no calls shows this
    format. `call_begins`: the text after which a JSON object with a name and arguments is a call. `call_json`
    is None if arguments are not JSON; under a grammar, a JSON object of both is then a call between `tags`.
    `layout`: the form of arguments in tags. `write` makes the text of calls if `call_json` cannot. `signs`:
    texts of a call that distinguish this format from others that `parse_function` reads too.

    `framed`: an answer is never plain text, so its parser is needed without tools too. `answer_begins`: the
    text before the answer itself. `thinks`: the texts before and after thinking, if `parse_function` reads
    thinking itself. `new_id` makes a call's id. `fitting_id` makes an id that templates accept from an id of
    the chat, the function's name, and the number of earlier calls in the chat.
    """

    name: str
    parse_function: Callable[[Schemas], ParseFunction]
    marks: tuple[str, ...]
    is_in: Callable[[str], bool] = _never
    call_begins: str = ""
    call_json: CallJson | None = None
    tags: tuple[str, str] | None = None
    layout: CallTags | None = None
    write: Callable[[Calls], str] | None = None
    signs: tuple[str, ...] = ()
    framed: bool = False
    thinks: tuple[str, str] | None = None
    answer_begins: str = ""
    new_id: Callable[[], str] = call_id
    fitting_id: Callable[[str, str, int], str] = _as_given

    def is_shown_in(self, text: str) -> bool:
        """Whether `text`, in which `parse_function` read a call, has this format's own marks."""
        signs = self.signs
        if self.call_json is not None:
            head = f"{self.call_json.trigger}{self.call_json.opening}{self.call_json.before}"
            signs = (*head.split(ID), *self.call_json.between.split(ID))
        return bool(signs) and all(sign in text for sign in signs)

    def calls_text(self, calls: Calls) -> str | None:
        """The text of calls; None if the model's form is unknown."""
        if self.write is not None:
            return self.write(calls)
        return None if self.call_json is None else calls_text(self.call_json, calls)


def object_format(
    name: str,
    opening: str,
    closing: str = "",
    *,
    newline: str = "",
    is_list: bool = False,
    keys: tuple[str, str] = ("name", "arguments"),
    first: str = "",
    skipped: tuple[str, ...] = (),
    marks: tuple[str, ...] | None = None,
    is_in: Callable[[str], bool] = _never,
) -> CallFormat:
    """Calls as JSON objects of the members `keys`, one or a list of them between `opening` and `closing`.

    `newline` comes after `opening` and before `closing`. `first` is the text of members before the name.
    """
    left, right = ("[", "]") if is_list else ("", "")
    shape = json_members(
        opening,
        keys=keys,
        first=first,
        opening=f"{newline}{left}",
        separator=", " if is_list else None,
        closing=f"{right}{newline if closing else ''}{closing}",
    )
    parse = objects(opening, closing=closing, skipped=skipped)
    return CallFormat(
        name=name,
        parse_function=lambda _: parse,
        marks=tuple(filter(None, (opening, closing, *skipped))) if marks is None else marks,
        is_in=is_in,
        call_begins=f"{opening}{newline}{left}",
        call_json=shape,
    )


def tag_format(
    name: str, tags: CallTags, *, marks: tuple[str, ...] = (), answer_begins: str = ""
) -> CallFormat:
    """Calls in tags. `marks` default to the outer tags. With `answer_begins`, answers are framed."""
    return CallFormat(
        name=name,
        parse_function=lambda schemas: tagged(tags, schemas),
        layout=tags,
        marks=marks or tags.outer or (),
        call_begins=f"{tags.outer[0]}\n" if tags.outer and not answer_begins else "",
        tags=None if answer_begins else tags.outer or (hermes.OPEN, hermes.CLOSE),
        signs=(tags.outer or (tags.call,))[:1],
        framed=bool(answer_begins),
        answer_begins=answer_begins,
    )
