"""What a GPU does with a recipe's training steps, on random weights: needs torch, transformers, peft and accelerate alone."""
