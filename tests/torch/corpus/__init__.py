"""Chat templates of published models, each with many kinds of conversations, and what must be trained of them."""
