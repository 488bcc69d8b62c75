"""Translate and predict: one path for the commands, for validation and for evaluation."""
