"""rich's console without control characters of the texts that it is given."""

from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from vram_llm.text.lines import escaped


class EscapingConsole(Console):
    """Colours and moves of the cursor are rich's own; control characters in texts become "?"."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=escaped(segment.text))
