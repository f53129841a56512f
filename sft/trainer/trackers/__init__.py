"""Where a run's numbers go, one file per tracker. To add one: write its file (see tracker.py), name it in STARTERS."""
