"""Many runs of one recipe: trials, samplers, pruning, ranking, Ray."""
