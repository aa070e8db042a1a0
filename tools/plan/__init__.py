"""What a recipe will need, said before anything is downloaded: parameters, tokens, memory, time, and what is wrong with it."""
