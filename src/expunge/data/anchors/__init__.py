"""Find anchors (expressions that occur in the forget text only) and the passages before them."""
