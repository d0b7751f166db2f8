"""What we claim about speed and quality: each script prints its figures, the last line as one JSON object."""
