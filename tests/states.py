"""The states that a run passes through, and a sentence longer than a terminal is wide."""

RATES = {"loss": 0.0234, "tokens_per_second": 12_345.6, "time_left_s": 125}
STATES = [
    {"status": "launching"},
    {"status": "preparing"},
    {"status": "evaluating", "evaluating": "before", "answers": 0, "total_answers": 0},
    {"status": "evaluating", "evaluating": "before", "answers": 8, "total_answers": 200},
    {"status": "training", "step": 0, "total_steps": 250},
    {"status": "training", "step": 246, "total_steps": 250} | RATES | {"loss": 9.9},
    {"status": "evaluating", "evaluating": "during", "answers": 0, "total_answers": 0, "step": 248, "total_steps": 250}
    | RATES,
    {"status": "training", "step": 249, "total_steps": 250} | RATES,
    {"status": "saving", "step": 250, "total_steps": 250} | RATES,
    {"status": "evaluating", "evaluating": "after", "answers": 199, "total_answers": 200} | RATES,
    {"status": "finished", "step": 250, "total_steps": 250} | RATES,
]
SENTENCE = (
    "How many pens does Lea have now, if she had four pens yesterday, found nine pens today and DEVICE=cpu was set?"
)
