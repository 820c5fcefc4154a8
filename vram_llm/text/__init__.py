"""Text: lines and tables for any width, ASCII for terminals that have no more, overlaps with markers."""
