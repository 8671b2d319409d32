"""Each claim beside the rule that decides it."""
