"""Research with an address of its own: one folder an experiment."""
