"""Renders one chat template, in the process that calls it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from functools import lru_cache
from time import thread_time
from traceback import walk_tb
from typing import Any, NamedTuple, Protocol

from jinja2 import Template, TemplateSyntaxError

from vram_llm.chat.sandbox import ChatSandbox, RenderBudget, TemplateRefused, budget

_FREE_CHARS = 2**20  # longest prompt: this plus 8 times the characters of its messages


class Outcome(StrEnum):
    """The result of rendering a template."""

    TEXT = "text"
    REFUSED = "refused"  # by its raise_exception
    FAILED = "failed"  # on these messages
    BROKEN = "broken"  # it does not compile
    ENDED = "ended"  # the process that rendered it was ended: it took too much time or memory


class Rendering(NamedTuple):
    """The prompt, or the reason why there is none; and the seconds of processor time that it took."""

    outcome: Outcome
    text: str
    seconds: float


class Renderer(Protocol):
    """Renders the template `source` with the variables `names`; `names` of None only compiles it. Blocks."""

    def __call__(self, source: str, names: Mapping[str, Any] | None) -> Rendering: ...


def render_here(source: str, names: Mapping[str, Any] | None) -> Rendering:
    """Render in this process. `names` has the messages under that name; they limit the prompt's length."""
    started = thread_time()
    try:
        template = _compiled(source)
        outcome, text = Outcome.TEXT, "" if names is None else _rendered(template, names)
    except TemplateSyntaxError as error:
        outcome, text = Outcome.BROKEN, f"line {error.lineno}: {error.message}"
    except (RecursionError, SyntaxError, MemoryError, OverflowError, ValueError) as error:
        outcome, text = Outcome.BROKEN, f"{type(error).__name__}: {error}"
    except _Failed as error:
        outcome, text = error.outcome, str(error)
    return Rendering(outcome, text, thread_time() - started)


_renderer: Renderer = render_here


def renderer() -> Renderer:
    """The renderer of this process's templates: `render_here`, unless `rendering_with` has another one."""
    return _renderer


@contextmanager
def rendering_with(chosen: Renderer) -> Iterator[None]:
    """Render all templates of this process with `chosen` until the block ends.

    One for the process, since templates and dialects are cached for it.
    """
    global _renderer
    before, _renderer = _renderer, chosen
    try:
        yield
    finally:
        _renderer = before


class _Failed(Exception):
    def __init__(self, outcome: Outcome, reason: str) -> None:
        super().__init__(reason)
        self.outcome = outcome


@lru_cache(maxsize=128)
def _compiled(source: str) -> Template:
    """The compiled source: the parts that ask what a template shows and the server share one.

    Raises jinja2.TemplateSyntaxError, RecursionError.
    """
    return ChatSandbox().compile_metered(source)


def _rendered(template: Template, names: Mapping[str, Any]) -> str:
    """The prompt. Raises _Failed."""
    n_chars = sum(len(str(value)) for message in names["messages"] for value in message.values())
    token = budget.set(RenderBudget(_FREE_CHARS + 8 * n_chars, names))
    try:
        return _write(template, names)
    except TemplateRefused as error:
        raise _Failed(Outcome.REFUSED, str(error)) from None
    except RecursionError:
        raise _Failed(Outcome.FAILED, "it calls itself without end") from None
    except MemoryError:
        raise _Failed(Outcome.FAILED, "it takes more memory than any chat needs") from None
    except Exception as error:  # untrusted code can raise anything
        raise _Failed(Outcome.FAILED, f"{_line_of(error)}{error or type(error).__name__}") from None
    finally:
        budget.reset(token)


def _write(template: Template, names: Mapping[str, Any]) -> str:
    pieces, length = [], 0
    for piece in template.generate(names):
        length += len(piece)
        budget.get().check_length(length)
        pieces.append(piece)
    return "".join(pieces)


def _line_of(error: Exception) -> str:
    """The line of the template that raised `error`, from the frames that jinja2 puts into its traceback."""
    lines = [line for frame, line in walk_tb(error.__traceback__) if frame.f_code.co_filename == "<template>"]
    return f"line {lines[-1]}: " if lines else ""
