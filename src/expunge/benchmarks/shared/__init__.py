"""Code that several benchmarks share: rows, means, paired differences, membership, token scores, multiple choice."""
