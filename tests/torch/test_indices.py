"""What is tried with an index out of range fails as on a CPU: before a kernel that ends the use of a GPU."""

import pytest
import torch
import torch.nn.functional as F

from sft.trainer.indices import CheckedIndices

TABLE, ROWS = torch.arange(12.0).reshape(4, 3), torch.tensor([[0, 1, 2], [2, 1, 0]])
WRONG = {
    "a row that the table lacks": lambda index: F.embedding(index + 2, TABLE),
    "a row before the first": lambda index: F.embedding(index - 1, TABLE),
    "by keywords": lambda index: F.embedding(input=index + 2, weight=TABLE),
    "gathered": lambda index: TABLE.gather(0, index + 2),
    "gathered by keywords": lambda index: torch.gather(TABLE, dim=1, index=index + 1),
    "selected": lambda index: TABLE.index_select(0, index.flatten() + 2),
    "in brackets": lambda index: TABLE[index + 2],
    "before the first, in brackets": lambda index: TABLE[index - 5],
    "behind a slice": lambda index: TABLE[:, index + 1],
    "behind an ellipsis": lambda index: TABLE[..., index + 1],
    "behind a new dimension": lambda index: TABLE[None, index + 2],
    "behind a mask": lambda index: TABLE[TABLE[:, 0] > 1, index[0] + 1],
}
RIGHT = {
    "embedding": lambda index: F.embedding(index, TABLE),
    "gathered": lambda index: TABLE.gather(0, index),
    "selected": lambda index: torch.index_select(TABLE, 1, index[0]),
    "from behind": lambda index: TABLE[index - 3],
    "with all kinds of keys": lambda index: TABLE[None, ..., 1:, index[0]],
    "a mask": lambda index: TABLE[TABLE > 2],
    "no indices": lambda index: TABLE[index[:0]],
    "mapped": lambda index: torch.vmap(lambda one: TABLE[one])(index),
}


@pytest.mark.parametrize("call", WRONG.values(), ids=WRONG)
def test_an_index_out_of_range_is_an_error_before_it_is_used(call):
    with CheckedIndices(), pytest.raises(IndexError, match="out of range of [34] entries"):
        call(ROWS)


@pytest.mark.parametrize("call", RIGHT.values(), ids=RIGHT)
def test_what_is_in_range_is_computed(call):
    wanted = call(ROWS)
    with CheckedIndices():
        assert torch.equal(call(ROWS), wanted)


def test_left_it_checks_nothing_and_checks_again_behind():
    with CheckedIndices():
        with CheckedIndices.left(), pytest.raises(IndexError, match="in self"):
            F.embedding(ROWS + 2, TABLE)
        with pytest.raises(IndexError, match="entries"):
            F.embedding(ROWS + 2, TABLE)
