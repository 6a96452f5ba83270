"""Say what is released: which files, what installing them takes, and whether a release can be made."""
