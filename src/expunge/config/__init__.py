"""Settings: recipes, sweeps, and the loader that validates them."""
