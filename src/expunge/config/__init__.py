"""What a user may say: recipes, and the loader that checks them."""
