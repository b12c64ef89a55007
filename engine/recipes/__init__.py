"""What a user writes: recipes, their settings and filters, model names, several recipes in one file."""
