"""Training: objective, image buffer, step, loop, checkpoints, methods."""
