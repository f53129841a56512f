"""What the tasks do, one file per task."""
