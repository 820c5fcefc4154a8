"""Images through libmtmd."""
