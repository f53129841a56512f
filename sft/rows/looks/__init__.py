"""Looks at the rows before training: repeated rows, held-out rows that are in training too, rows that are odd.

Nothing here changes what is trained. Each look at a single row is a function in one of the modules, called in the
worker that tokenises the row (`row`); looks that compare rows need only 8-byte digests of them (`compare`). To add one,
write its function and its line in `table`.
"""
