"""The site that `make docs` builds from the Markdown pages, the registry of environments and the docstrings."""
