"""A trained model in the formats of other programs and of model hubs."""
