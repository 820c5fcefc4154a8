"""A flag of llama-server, with its environment variable."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Setting:
    """One of llama-server's settings."""

    flag: str
    value: str | None  # None: the flag is a switch
    variable: str | None  # the environment variable; None: only the flag sets it
    switch_value: str = "true"  # the variable's value for a switch
    second_value: str | None = None  # of a flag with two

    @property
    def variable_value(self) -> str:
        """The value of the environment variable."""
        return self.switch_value if self.value is None else self.value

    @property
    def arguments(self) -> tuple[str, ...]:
        """The setting as command-line arguments."""
        values = (value for value in (self.value, self.second_value) if value is not None)
        return (self.flag, *values)
