"""Drafts of tokens to verify: by prompt lookup and by a draft model."""
