"""A plan as text: pure functions from a Plan to lines for any width."""
