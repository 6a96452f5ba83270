"""Build the site of `make docs` from the Markdown pages, the registry of environments and the docstrings."""
