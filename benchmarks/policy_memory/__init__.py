"""Plan the memory of a round of learning with a published policy from shapes, and measure it on a GPU."""
