"""What a campaign says of itself: a page, plain text, plain data."""
