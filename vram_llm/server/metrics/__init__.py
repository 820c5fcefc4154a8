"""What the server shows of itself: /status, /metrics and /slots."""
