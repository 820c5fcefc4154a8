"""What a computer has: devices, host, and where each figure comes from."""
