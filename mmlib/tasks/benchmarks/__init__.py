"""One file per benchmark: where it lies, its rows, how it is laid out, asked and graded."""
