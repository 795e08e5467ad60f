"""Learning-rate schedules and optimizers, by configuration."""

from typing import Any

import optax
from ml_collections import ConfigDict


def learning_rate(config: ConfigDict, num_steps: int) -> optax.Schedule:
    """Linear warm-up from 0, then cosine decay to 0, steps, or a constant.

    Args:
      config: `config.optimizer`.
      num_steps: length of the run, the end of the cosine.
    """
    peak, warmup = config.learning_rate, config.warmup_steps
    if config.schedule == "cosine":
        after = optax.cosine_decay_schedule(peak, max(1, num_steps - warmup))
    elif config.schedule == "step":
        after = optax.piecewise_constant_schedule(
            peak, {step - warmup: config.decay_factor for step in config.decay_steps}
        )
    else:
        after = optax.constant_schedule(peak)
    if warmup == 0:
        return after
    # The first step moves, too: it takes peak / warmup and not 0.
    rising = optax.linear_schedule(peak / warmup, peak, max(1, warmup - 1))
    return optax.join_schedules([rising, after], [warmup])


def make_optimizer(config: ConfigDict, num_steps: int) -> optax.GradientTransformation:
    """SGD with momentum and coupled weight decay, or AdamW.

    The weight decay reaches every parameter, as in the common re-identification code.
    `backbone_factor` multiplies the learning rate of the backbone.

    Args:
      config: `config.optimizer`.
      num_steps: length of the run.
    """
    schedule = learning_rate(config, num_steps)
    if config.name == "sgd":
        optimizer = optax.chain(
            optax.add_decayed_weights(config.weight_decay),
            optax.sgd(schedule, momentum=config.momentum, nesterov=config.nesterov),
        )
    else:
        optimizer = optax.adamw(schedule, weight_decay=config.weight_decay)
    if config.backbone_factor == 1:
        return optimizer
    return optax.chain(
        optimizer,
        optax.masked(optax.scale(config.backbone_factor), _is_backbone),
    )


def _is_backbone(params: dict[str, Any]) -> dict[str, bool]:
    return {name: name == "backbone" for name in params}
