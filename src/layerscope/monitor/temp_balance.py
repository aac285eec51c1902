"""TempBalance: layer-wise learning rates from the spectra of the weights, for any torch optimizer.

In every epoch the rate of each layer is lr·[0.5 + (α − min)/(max − min)], with α from Hill's estimator. A heavier tail
(smaller α) indicates a better trained layer, which gets a smaller rate. The first and the last layer keep lr; norms use
the rate of the layer before them. Source: Zhou et al., NeurIPS 2023 ("Temperature Balancing, Layer-wise Weight
Analysis, and Neural Network Training").
"""

from __future__ import annotations

import math
from typing import Any

from layerscope import analysis
from layerscope.edit.schedules import temp_balance
from layerscope.errors import UsageError
from layerscope.live.user_code import torch_parameters

RATES = {"metric": "alpha_hill", "low": 0.5, "high": 1.5, "form": "linear"}  # values of the paper


class TempBalance:
    """Scales the learning rates of an optimizer's parameter groups, on top of any other schedule.

    ::

        groups = TempBalance.groups(model)
        optimizer = torch.optim.SGD(groups, lr=0.1)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 200)
        balance = TempBalance(optimizer, model)
        for epoch in range(200):
            ...
            balance.undo()
            schedule.step()
            balance.step()
    """

    def __init__(self, optimizer: Any, model: Any, *, every: int = 1, **options: Any) -> None:
        """
        :param optimizer: torch optimizer with the parameter groups from :meth:`groups`.
        :param model: the model that it trains.
        :param every: number of calls of :meth:`step` between analyses.
        :param options: options of :func:`layerscope.edit.temp_balance`: metric, low, high, form, ends.
        :raises UsageError: parameter groups have no layer names, or ``every`` is not a whole number of at least 1.
        """
        if not isinstance(every, int) or every < 1:
            raise UsageError(f"every must be a whole number of at least 1, not {every!r}")
        nameless = [group for group in optimizer.param_groups if "layer" not in group]
        if nameless:
            raise UsageError(
                "the optimizer's groups have no layer names; use torch.optim.SGD(TempBalance.groups(model), lr=…)"
            )
        self.optimizer, self.model, self.every = optimizer, model, every
        self.options = {**RATES, **options}
        self.shares: dict[str, float] = {}  # factor on the common rate, by layer
        self._count = 0

    @staticmethod
    def groups(model: Any, **options: Any) -> list[dict[str, Any]]:
        """Return one parameter group per layer: a weight with two or more axes, its bias, and the norms after it.

        :param options: options for every group, e.g. weight_decay=…
        :raises UsageError: the model has no trainable parameter.
        """
        groups: list[dict[str, Any]] = []
        for name, parameter in torch_parameters(model).items():
            module = name.rpartition(".")[0]
            if not parameter.requires_grad:
                continue
            if parameter.dim() > 1 or not groups:
                groups.append({"params": [], "layer": name, "module": module, **options})
            groups[-1]["params"].append(parameter)
        if not groups:
            raise UsageError("the model has no trainable parameter; set requires_grad=True for some")
        return groups

    def step(self) -> dict[str, float]:
        """Analyze the weights if due, scale the rates, and return the rate of each layer.

        :raises UsageError: another schedule changed scaled rates; call :meth:`undo` before its step.
        """
        for group in self.optimizer.param_groups:
            scaled = group.get("common_lr", math.nan) * group.get("share", math.nan)
            if "common_lr" in group and not math.isclose(group["lr"], scaled):
                raise UsageError(
                    "another schedule changed rates that TempBalance had scaled; call undo() before its step()"
                )
        self.undo()
        if self._count % self.every == 0:
            report = analysis.analyze(self.model, min_evals=50)
            self.shares = temp_balance(report, 1.0, **self.options)
        self._count += 1
        for group in self.optimizer.param_groups:
            group["common_lr"], group["share"] = group["lr"], self.shares.get(group["layer"], 1.0)
            group["lr"] = group["lr"] * group["share"]
        return {group["layer"]: group["lr"] for group in self.optimizer.param_groups}

    def undo(self) -> None:
        """Reset every group to the common rate, so that another schedule can change it."""
        for group in self.optimizer.param_groups:
            group["lr"] = group.pop("common_lr", group["lr"])  # in the group, so that saved states contain it
            group.pop("share", None)
