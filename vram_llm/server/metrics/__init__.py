"""The server's figures: /status, /metrics and /slots."""
