"""Base classes that several audits have in common."""
