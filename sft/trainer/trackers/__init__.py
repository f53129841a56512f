"""What receives a run's numbers, one file per tracker. To add one: write its file (see tracker.py), name it in
STARTERS."""
