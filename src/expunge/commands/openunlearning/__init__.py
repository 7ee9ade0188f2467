"""Import logs and configurations of OpenUnlearning (arXiv:2506.12618)."""
