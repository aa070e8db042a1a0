"""Stage 2: GRPO on rule-based verifiable rewards."""
