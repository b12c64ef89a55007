"""Scorers: what turns a live model and items into scores. `opening.open_scorer` makes the one a campaign asks for."""
