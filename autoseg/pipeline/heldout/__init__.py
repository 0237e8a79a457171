"""Label maps of held-out cases, their scores, and what is selected by them."""
