"""Train, check and explain an image classifier on a curated manifest."""
