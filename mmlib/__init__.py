"""Where mathematics and language live in the weights of multilingual language models."""
