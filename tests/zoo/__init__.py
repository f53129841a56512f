"""Every decoder family of the installed transformers, tiny, through this project's own training."""
