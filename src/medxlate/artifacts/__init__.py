"""What a training leaves behind: model folders, runs, cards, and models of other code."""
