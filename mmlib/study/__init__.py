"""The experiments of the book, one module each."""
