"""Does it fit, how long does it take, what would be better: computed before anything starts, without a GPU."""
