"""A small hub for the tests: real HTTP on 127.0.0.1, spoken to by the project's own processes through HF_ENDPOINT."""
