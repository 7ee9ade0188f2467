"""Unlearning methods, one file each: the file's stem is the method's name."""
