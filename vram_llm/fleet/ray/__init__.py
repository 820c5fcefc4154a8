"""Models on the machines of a Ray cluster: Ray Serve starts and moves replicas, tokens come by TCP.

A replica plans for its own node, by a function that is handed in, and dials the server's process. The server
sees an engine like one of its own (remote_engine.py), so that all routes are the same.
"""
