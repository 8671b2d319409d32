"""Chapters, their runner, and what stands on a page."""
