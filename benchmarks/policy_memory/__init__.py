"""How much memory a round of learning takes with a published policy, planned from shapes and measured on a GPU."""
