"""Small inputs, one of each kind that people have, and what the project makes of each: `python -m tests.cases`.

`inputs/` has the files and folders; made.py writes those that are not UTF-8 text. expected.toml says what each must
become; tests/torch/test_cases.py checks it.
"""
