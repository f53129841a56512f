"""`make manifest`: files with which schedulers start a run's nodes. Rendered and checked, never run."""
