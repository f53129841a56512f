"""`make rows`: rows as they are trained, as text for a terminal and as a page for a browser."""
