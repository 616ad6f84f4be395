"""Logistic regression with piecewise linear columns: [n, F] features in, log-odds [n] out. NumPy only."""

from dataclasses import dataclass
from typing import Any

import numpy as np

KNOTS = (0.1, 0.25, 0.5, 0.75, 0.9)  # quantiles of the calibration samples at which a curved column may bend
RIDGE = 0.3  # of a standardised column's weight
NEWTON_STEPS = 30


@dataclass(frozen=True, eq=False)
class Logistic:
    """A fitted model.

    knots [len(KNOTS), curved]: where the first `curved` columns bend. mean, scale, weights: of the expanded columns;
    intercept: the log-odds at their means.
    """

    knots: np.ndarray
    mean: np.ndarray
    scale: np.ndarray
    weights: np.ndarray
    intercept: float

    @classmethod
    def fit(cls, features: np.ndarray, curved: int, positive: np.ndarray) -> "Logistic":
        """Maximum likelihood with a ridge, by Newton's method. features [n, F] float, positive [n] bool."""
        knots = np.quantile(features[:, :curved], KNOTS, axis=0)
        expanded = _expand(features, knots)
        mean, scale = expanded.mean(0), expanded.std(0) + 1e-6
        columns = np.column_stack([np.ones(len(expanded)), (expanded - mean) / scale])
        weights = _newton(columns, positive.astype(np.float64))
        return cls(knots, mean, scale, weights[1:], float(weights[0]))

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Log-odds [n] of features [n, F]. A row's bits do not depend on the others."""
        columns = (_expand(features, self.knots) - self.mean) / self.scale
        return (columns * self.weights).sum(1) + self.intercept

    def to_json(self) -> dict[str, Any]:
        arrays = {name: getattr(self, name).tolist() for name in ("knots", "mean", "scale", "weights")}
        return {**arrays, "intercept": self.intercept}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Logistic":
        arrays = {name: np.array(value[name], np.float64) for name in ("knots", "mean", "scale", "weights")}
        arrays["knots"] = arrays["knots"].reshape(len(KNOTS), -1)
        return cls(**arrays, intercept=float(value["intercept"]))


def _expand(features: np.ndarray, knots: np.ndarray) -> np.ndarray:
    features = np.asarray(features, np.float64)
    bent = np.maximum(features[:, None, : knots.shape[1]] - knots, 0)
    return np.concatenate([features, bent.reshape(len(features), -1)], axis=1)


def _newton(columns: np.ndarray, target: np.ndarray) -> np.ndarray:
    ridge = np.full(columns.shape[1], RIDGE)
    ridge[0] = 1e-6  # the intercept is free
    weights = np.zeros(columns.shape[1])
    for _ in range(NEWTON_STEPS):
        chance = 1 / (1 + np.exp(-np.clip(columns @ weights, -30, 30)))
        gradient = columns.T @ (chance - target) + ridge * weights
        curvature = (columns * (chance * (1 - chance) + 1e-9)[:, None]).T @ columns + np.diag(ridge)
        step = np.linalg.solve(curvature, gradient)
        weights -= step
        if np.abs(step).max() < 1e-6:
            break
    return weights
