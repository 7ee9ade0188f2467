"""Generate fictitious people with questions, paraphrases and wrong answers."""
