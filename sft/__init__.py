"""Stage 1: supervised fine-tuning on spatial reasoning traces."""
