"""From rows to tokens on disk: read, converted, tokenised, and served to the loop."""
