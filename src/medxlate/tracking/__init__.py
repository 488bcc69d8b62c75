"""Experiment trackers: a training's figures in TensorBoard, Weights & Biases or MLflow."""
