"""Streams that go on without their client, who may come back (llama-server's server-stream.cpp)."""
