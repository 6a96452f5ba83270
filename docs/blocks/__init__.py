"""Functions that generate the documents' blocks of figures from result files."""
