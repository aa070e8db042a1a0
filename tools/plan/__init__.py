"""What a recipe needs, before anything is downloaded: parameters, tokens, memory, time, and what is wrong with it."""
