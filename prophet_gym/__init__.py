"""A learned robot simulator behind Gymnasium."""
