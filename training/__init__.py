"""What both training stages share: the model with its adapter, checkpoints to resume from."""
