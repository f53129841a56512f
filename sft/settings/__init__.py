"""Every setting: where it comes from, what it may be, what contradicts it. No torch."""
