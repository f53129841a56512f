"""Models and data sets on the hub: downloaded once, and what goes wrong is one line for the user."""
