"""What several benchmarks have in common: row matching, means, membership, token scores, multiple choice."""
