"""The settings: where they come from, what they may be, what contradicts them. No torch."""
