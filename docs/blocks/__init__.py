"""What stands in the documents' blocks of figures, each made from files by a function."""
