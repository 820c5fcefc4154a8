"""A model file's header, and the byte counts that follow from it."""
