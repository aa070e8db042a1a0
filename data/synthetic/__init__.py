"""Synthetic edits with exact ground truth: scenes, edits, damage, words, and the rows made of them."""
