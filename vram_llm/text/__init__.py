"""Text for people: lines, tables for any width, ASCII for terminals that have no more."""
