"""The small models that are trained here: corpus and recipe."""
