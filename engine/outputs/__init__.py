"""What appears in the end: a directory or a place in an object store, its card, publishing."""
