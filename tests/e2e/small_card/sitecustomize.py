"""A card on which too large a micro-step runs out of memory: on PYTHONPATH, it changes torch in the ranks of a run.

SMALL_CARD is a list of {"rank", "from_step", "tokens", "where"}: from step `from_step` on and in the dry run before it,
that rank has no memory in `where` (forward, backward, optimizer) for micro-steps of more than `tokens` tokens. On a GPU
it may then take no more memory than it has, so that the allocator itself runs out; on a CPU this raises what it would.
"""

import json
import os

if "RANK" in os.environ and "SMALL_CARD" in os.environ:
    import torch
    from deepspeed.runtime.engine import DeepSpeedEngine

    LIMITS = [limit for limit in json.loads(os.environ["SMALL_CARD"]) if limit["rank"] == int(os.environ["RANK"])]
    MIDDLE = 5  # linear layers before the one that fails
    forward, step = DeepSpeedEngine.forward, DeepSpeedEngine.step
    linear, adam = torch.nn.Linear.forward, torch.optim.AdamW.step
    now = {"step": 0, "tokens": 0, "most": 0, "layer": None}

    def fill(where, tokens):
        for limit in LIMITS:
            if limit["where"] != where or now["step"] < limit["from_step"] or tokens <= limit["tokens"]:
                continue
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
                total = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
                torch.cuda.set_per_process_memory_fraction(torch.cuda.memory_reserved() / total)
            else:
                raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate room for {tokens} tokens.")

    def small_forward(engine, input_ids, *inputs):
        if not engine.module.training:
            return forward(engine, input_ids, *inputs)
        tokens = input_ids.numel()
        now.update(step=engine.global_steps + 1, tokens=tokens, most=max(tokens, now["most"]), layer=0)
        loss = forward(engine, input_ids, *inputs)
        now["layer"] = None
        return loss

    def small_linear(layer, inputs):
        found = linear(layer, inputs)
        if now["layer"] is not None:
            now["layer"] += 1
            if now["layer"] == MIDDLE:
                fill("forward", now["tokens"])
                found.register_hook(lambda gradient: fill("backward", now["tokens"]))
        return found

    def small_step(engine):
        step(engine)
        now["most"] = 0

    def small_adam(optimizer, *arguments, **options):
        fill("optimizer", now["most"])
        return adam(optimizer, *arguments, **options)

    DeepSpeedEngine.forward, DeepSpeedEngine.step = small_forward, small_step
    torch.nn.Linear.forward, torch.optim.AdamW.step = small_linear, small_adam
