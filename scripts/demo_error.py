"""The error that ends `make demo` early."""

PORT_IN_USE = 30  # as vram_llm.errors.PortInUse exits


class DemoError(Exception):
    """The demo cannot continue; holds a sentence and the exit code."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code
