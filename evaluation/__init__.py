"""Held-out evaluation of every stage's model, and the report that shows it."""
