"""Where a run's numbers go: one file a tracker."""
