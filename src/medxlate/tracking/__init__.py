"""Experiment trackers: what a training tells, in TensorBoard, Weights & Biases or MLflow."""
