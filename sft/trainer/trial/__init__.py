"""Try what a model can do on a tiny copy of it, before anything is prepared or downloaded."""
