"""What runs the transformer of the small Prophet fastest on this machine."""
