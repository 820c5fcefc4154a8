"""What a model file says: its header, and what follows from it in bytes."""
