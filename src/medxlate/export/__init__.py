"""A trained model in the forms that other programs and model hubs take."""
