"""Multiple-choice questions through lm-eval: base class, tasks and the harness."""
