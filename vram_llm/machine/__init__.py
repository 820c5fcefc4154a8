"""The computer: its devices, its host, and the source of each figure."""
