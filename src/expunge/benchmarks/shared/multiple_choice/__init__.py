"""Multiple-choice questions through lm-eval."""
