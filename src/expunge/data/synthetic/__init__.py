"""Fictitious people with questions, paraphrases and wrong answers."""
