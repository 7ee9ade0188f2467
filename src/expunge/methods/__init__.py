"""Unlearning methods: the name of each file or folder is the name of a method."""
