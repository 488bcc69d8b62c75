"""The networks, and the model folder that hands them on."""
