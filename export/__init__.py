"""From adapters to weights that can be used on their own: merge, and proof that the merge is right."""
