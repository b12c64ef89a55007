"""What scores mean: objectives, early stopping, fronts, the verdict."""
