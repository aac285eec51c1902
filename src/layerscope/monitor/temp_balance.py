"""TempBalance: learning rates by layer that follow the spectra of the weights, for any torch optimiser.

Zhou et al., NeurIPS 2023 ("Temperature Balancing, Layer-wise Weight Analysis, and Neural Network Training"): every
epoch the rate of each layer is lr·[0.5 + (α − min)/(max − min)], α by Hill's estimator; the heavier a layer's tail, the
better trained it is and the smaller its rate. The first and the last layer keep lr; norms follow the layer before them.
"""

from __future__ import annotations

import math
from typing import Any

from layerscope import analysis
from layerscope.edit.schedules import temp_balance
from layerscope.errors import UsageError
from layerscope.live.user_code import torch_parameters

RATES = {"metric": "alpha_hill", "low": 0.5, "high": 1.5, "form": "linear"}  # the paper's


class TempBalance:
    """Scales the rates of an optimiser's groups, whatever another schedule makes of the common one.

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
        :param optimizer: over the groups that :meth:`groups` gives.
        :param every: calls of :meth:`step` from one analysis to the next.
        :param options: of :func:`layerscope.edit.temp_balance`: metric, low, high, form, ends.
        :raises UsageError: groups without names, or a number that is none.
        """
        if not isinstance(every, int) or every < 1:
            raise UsageError(f"every must be 1 or more, not {every!r}")
        nameless = [group for group in optimizer.param_groups if "layer" not in group]
        if nameless:
            raise UsageError("the optimiser's groups name no layers: torch.optim.SGD(TempBalance.groups(model), lr=…)")
        self.optimizer, self.model, self.every = optimizer, model, every
        self.options = {**RATES, **options}
        self.shares: dict[str, float] = {}  # of the common rate, by layer
        self._count = 0

    @staticmethod
    def groups(model: Any, **options: Any) -> list[dict[str, Any]]:
        """Parameter groups by layer: a weight of two axes or more, its bias, and the norms that follow.

        :param options: of every group: weight_decay=…
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
            raise UsageError("the model has no parameter that is trained")
        return groups

    def step(self) -> dict[str, float]:
        """Analyse where it is due, and scale the rates; the rate of each layer.

        :raises UsageError: the common rate is scaled already: call :meth:`undo` before another schedule's step.
        """
        for group in self.optimizer.param_groups:
            scaled = group.get("common_lr", math.nan) * group.get("share", math.nan)
            if "common_lr" in group and not math.isclose(group["lr"], scaled):
                raise UsageError("another schedule has changed rates that are scaled: undo() comes first")
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
        """Give every group the common rate back, for another schedule to change."""
        for group in self.optimizer.param_groups:
            group["lr"] = group.pop("common_lr", group["lr"])  # the optimiser's state holds it, saved ones too
            group.pop("share", None)
