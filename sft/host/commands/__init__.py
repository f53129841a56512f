"""What the tasks do, one file a task."""
