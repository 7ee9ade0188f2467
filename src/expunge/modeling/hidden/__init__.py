"""Hidden states: tracing layers, skipping parts of them, storing them per row."""
