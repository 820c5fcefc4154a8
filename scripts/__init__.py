"""What a person runs from the Makefile, and what CI runs: the same files."""
