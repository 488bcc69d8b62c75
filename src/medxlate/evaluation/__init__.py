"""Measuring predictors and translated images."""
