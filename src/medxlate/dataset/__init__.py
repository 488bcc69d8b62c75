"""The dataset folder: label tables, prepare, index, shards, splits and loading."""
