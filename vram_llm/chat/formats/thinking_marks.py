"""The marks around a model's thinking and its answer."""

import re
from dataclasses import dataclass

MARK = re.compile(r"<[^<>\s][^<>]*>|\[/?[A-Z][A-Z _]*\]")  # the form of special tokens and tags
TAG = re.compile(r"</?\w[\w:.-]*>")  # a mark that people write too, in texts about it


@dataclass(frozen=True, slots=True)
class ThinkingMarks:
    """The marks around a model's thinking and its answer.

    `opening` is "" if thinking begins without a mark. `closes` is the text, with white space, from the end of
    the thinking to the answer. `skips` is the text with which a prompt skips thinking. `answer` and `end` are
    marks around the answer, `header` is the mark of a message with the answer. `field` is where the template
    reads earlier thinking in a message: a name, "content" for a part of the content, or "" for nowhere.
    """

    opening: str
    closing: str
    closes: str
    skips: str = ""
    answer: str = ""
    end: str = ""
    header: str = ""
    field: str = ""

    @property
    def marks(self) -> tuple[str, ...]:
        """All texts that may be special tokens."""
        texts = (self.opening, self.closing, self.answer, self.end, self.header)
        return tuple(dict.fromkeys(mark for text in texts if text for mark in (text, *MARK.findall(text))))

    def is_opened(self, prompt: str) -> bool:
        """Whether an answer to `prompt` begins within the thinking."""
        end = prompt.rstrip()
        return end.endswith(self.opening) if self.opening else not self.is_closed(prompt)

    def is_closed(self, prompt: str) -> bool:
        """Whether `prompt` has closed the thinking, or begun the answer."""
        end = prompt.rstrip()
        return end.endswith(self.closing) or self._has_begun(end)

    def close_thinking(self, prompt: str) -> str:
        """`prompt` with the answer itself begun."""
        if self.is_opened(prompt):
            return prompt + self.closes
        if not self.is_closed(prompt):
            return prompt + (self.skips or self.opening + self.closes)
        return prompt if self._has_begun(prompt.rstrip()) else prompt + self.answer

    def _has_begun(self, prompt: str) -> bool:
        return bool(self.answer) and prompt.endswith(self.answer)


DEFAULT = ThinkingMarks("<think>", "</think>", "\n</think>\n\n", "<think>\n\n</think>\n\n")
