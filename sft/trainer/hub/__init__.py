"""Models and data sets from the hub, downloaded once."""
