"""The settings: where they come from, which values are valid, which contradict each other. No torch."""
