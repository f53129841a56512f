"""The trial of a model before anything is prepared: what it cannot do is refused, what is wrong is left out."""

from __future__ import annotations

import itertools
import time
from dataclasses import replace
from typing import Any

import torch
import transformers

from sft.errors import SettingsError, shown, wrong
from sft.run.records import Tried
from sft.settings.fields import Settings
from sft.trainer import fast_paths
from sft.trainer.causes import ends_gpu, is_not_the_models, reason_of
from sft.trainer.distributed import World
from sft.trainer.logits import Trial, difference
from sft.trainer.model import adapter, implementation, liger, published, towers
from sft.trainer.trial import copies as tiny
from sft.trainer.trial import passes
from sft.trainer.trial.copies import Copies
from sft.trainer.trial.ways import NOT_FINITE, OTHER, SEEDS, Ways

# By this share of their spread, logits may change with the token behind them: the same sums, in a row of equal length.
LEAK = 1e-4
ANOTHER = "use another model"


def try_model(config: transformers.PreTrainedConfig, settings: Settings, world: World) -> Tried:
    """Try a model on a tiny copy of its configuration, on the run's device and in its precision.

    Raises SettingsError for what certainly cannot be trained, and errors that end the process's use of the GPU. Where a
    copy fails and the model might not, nothing is said: the ranks try the model itself.
    """
    started = time.monotonic()
    published.check(config, settings)
    config = implementation.undecided(config)  # as it is loaded
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # more would only wait for each other
    try:
        found = try_copy(config, settings, world)
    except SettingsError:
        raise
    except torch.OutOfMemoryError:
        found = Tried(not_tried="the device has no memory left for it")
    except Exception as error:  # of any kind: the copy's, until the ranks find it in the model
        if ends_gpu(error):
            raise
        found = Tried(not_tried=f"its tiny copy cannot be tried ({shown(reason_of(error), 200)})")
    finally:
        torch.set_num_threads(threads)
    return replace(found, positions=published.positions(config), seconds=round(time.monotonic() - started, 2))


def try_copy(config: transformers.PreTrainedConfig, settings: Settings, world: World) -> Tried:
    """Make a copy and try it."""
    copies, error = tiny.first_that_runs(config, settings, world)
    if error is not None:
        return failed(copies, error, config, settings)
    if copies is None:
        return Tried(not_tried=f"no copy of it has fewer than {tiny.MOST_WEIGHTS:,.0f} weights")
    check_causal(copies, settings)
    return fast_ways(copies, settings)


def failed(copies: Copies | None, error: Exception, config: transformers.PreTrainedConfig, settings: Settings) -> Tried:
    """Raise SettingsError if the model itself would fail as its copy did; otherwise return that nothing is known."""
    if isinstance(error, ImportError):
        raise refused(settings, f"needs a package that is not installed ({reason_of(error)})", "install it")
    if copies is None and (own := tiny.error_of_making(config, settings)):
        raise refused(settings, f"transformers cannot make it from its config.json ({reason_of(own)})", ANOTHER)
    if copies and (copies.is_whole or tiny.fails_in_its_own_size(config, error, settings)):
        if copies.dtype != torch.float32 and runs(replace(copies, dtype=torch.float32)):
            what = f"{name_of(config)} does not run in {settings.precision} ({reason_of(error)})"
            raise SettingsError([wrong("PRECISION", settings.precision, what, "set PRECISION=fp32")])
        raise refused(settings, f"{name_of(config)} does not run on text alone ({reason_of(error)})", ANOTHER)
    return Tried(not_tried=f"no tiny copy of it runs ({shown(reason_of(error), 200)})")


def runs(copies: Copies) -> bool:
    """Tell whether a copy runs on text alone."""
    try:
        copies.alone(copies.loss())
    except Exception as error:  # of any kind: the code of a model family
        if is_not_the_models(error):
            raise
        return False
    return True


def check_causal(copies: Copies, settings: Settings) -> None:
    """Raise SettingsError if what follows a token changes what is predicted before it: nothing would be learnt.

    A fast attention may do that to a model that is causal with its attention written out, which is then used.
    """
    for attention, seed in itertools.product((None, fast_paths.PLAIN), SEEDS):
        try:
            loss = copies.loss(seed, attention).eval()
        except ValueError:  # a family without it
            continue
        trial = Trial(loss, copies.world)
        row, _ = passes.rows_of(copies.vocabulary, seed)[0]
        with torch.no_grad():
            left, right = (trial.logits(row, after=token) for token in (3, copies.vocabulary // 2 - 1))
        if difference(left, right) <= LEAK:
            return
    what = f"{type(trial.model).__name__} sees the tokens that it has to predict (an encoder, not a decoder)"
    raise refused(settings, what, "use a causal language model")


def fast_ways(copies: Copies, settings: Settings) -> Tried:
    """Try every fast way that the settings ask for. Raises SettingsError if no way is left."""
    ways, left_out = Ways(copies), list[str]()
    found: dict[str, Any] = {"copy": copies.how, "left_out": left_out}
    name = type(copies.model()).__name__
    if ways.has_plain_attention and (why := ways.own_attention()):
        ways.attention = found["attention"] = "eager"
        own = copies.model().config._attn_implementation
        left_out.append(f"{name} is wrong with {own} attention ({why}): its own attention is written out, slower")
    plain, _ = ways.plain(0)
    if not plain.is_finite and not ways.plain(1)[0].is_finite:
        return Tried(**found, not_tried="its loss or gradients are not finite in a tiny size")
    if not settings.lora_rank:
        check_frozen(copies, plain, settings)
    if why := ways.own_loss():
        left_out.append(f"{name} adds terms to its own loss ({why}): only what docs/steps.md says is trained")
    if why := ways.chunked_loss():
        found["chunked_loss"] = False
        left_out.append(f"{name} gives another result with the loss in chunks ({why}): loss of whole logits")
    if settings.gradient_checkpointing and (why := ways.recomputed()):
        found["recomputes"] = False
        left_out.append(f"{name} is wrong when it recomputes activations ({why}): they are kept")
    if not settings.compile and liger.is_usable(copies.world.device):
        wrong_ones = {kernel: said for kernel in liger.KERNELS if (said := ways.kernel(kernel))}
        found["without_kernels"] = list(wrong_ones)
        left_out += [f"{name} is wrong with Liger's {kernel} ({why}): its own" for kernel, why in wrong_ones.items()]
    wrong_scans = {scan: said for scan in ways.scans() if (said := ways.scan(scan))}
    found["without_scans"] = list(wrong_scans)
    left_out += [f"{name} is wrong with its {scan} ({why}): transformers' own" for scan, why in wrong_scans.items()]
    ways.used_scans = [scan for scan in ways.scans() if scan not in wrong_scans]
    packed = ways.packed() if settings.packing else None
    if packed:
        found["packing"] = False
        left_out.append(f"{name} is wrong with packed rows ({packed}): training on padded ones")
    if packed != "" and settings.batch_size > 1 and (why := ways.padded()) and is_number(why):
        what = f"{name} is wrong with several rows in a batch ({why})"
        raise refused(settings, what, "set BATCH_SIZE=1 and PACKING=0, with more GRADIENT_ACCUMULATION_STEPS")
    check_adapter(copies, settings)
    if why := ways.saved():
        raise refused(settings, f"{name} does not load as it is saved: {why}", ANOTHER)
    return Tried(**found)


def check_frozen(copies: Copies, plain: passes.Result, settings: Settings) -> None:
    """Raise SettingsError if weights would be frozen, as those that text does not pass are, although it passes them.

    Where a model without values cannot be run to see that, its structure decides, which may be none that is known.
    """
    found = plain.gradients
    lost = [name for name in towers.unused(copies.model()) if name in found and bool(found[name].any())]
    if lost:
        what = f"{name_of(copies.config)} has {len(lost)} weights outside of its language model that text passes too"
        raise refused(settings, f"{what} ({lost[0]}, …); they would not be trained", ANOTHER)


def is_number(why: str) -> bool:
    """Tell whether a way gives other numbers; an error may be only the copy's."""
    return why.endswith((OTHER, NOT_FINITE))


def check_adapter(copies: Copies, settings: Settings) -> None:
    """Raise SettingsError if no adapter fits the model."""
    if settings.lora_rank and settings.lora_targets == "all-linear":  # names are looked for in the whole model
        model = copies.model()
        adapter.add(model, settings, towers.unused(model))


def name_of(config: transformers.PreTrainedConfig) -> str:
    """Return the name of a configuration's model."""
    kind = published.class_of(config)
    return str(config.model_type) if kind.__name__ in published.AUTOMATIC else str(kind.__name__)


def refused(settings: Settings, what: str, remedy: str) -> SettingsError:
    """Return the error for a model that cannot be trained."""
    return SettingsError([wrong("MODEL_NAME", settings.model_name, what, remedy)])


def world_of(settings: Settings) -> World:
    """Return the device of a trial: the first of this machine's, where the run is on GPUs."""
    device = "cuda" if settings.device == "cuda" and torch.cuda.is_available() else "cpu"
    if device == "cuda":
        torch.backends.cuda.enable_cudnn_sdp(False)  # as in the ranks: distributed.py
    return World(0, 0, 1, torch.device(device, 0) if device == "cuda" else torch.device(device))
