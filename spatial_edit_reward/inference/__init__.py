"""Asking any reward model for verdicts: backends, generation, expected scores, and the store of responses."""
