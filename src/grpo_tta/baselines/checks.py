"""Checks that the settings of the baselines share."""

from __future__ import annotations

from grpo_tta.errors import UserError


def check_selected(selected: int, views: int) -> None:
    """
    Raises:
        UserError: `selected` is not between 1 and `views`.
    """
    if not 1 <= selected <= views:
        raise UserError(f"{selected} of {views} views cannot be selected; use 1 to {views}.")


def check_at_least(name: str, value: float, lowest: float) -> None:
    """
    Raises:
        UserError: the value is below `lowest`.
    """
    if value < lowest:
        raise UserError(f"{name} must be at least {lowest}, not {value}.")


def check_positive(name: str, value: float) -> None:
    """
    Raises:
        UserError: the value is zero or below.
    """
    if value <= 0:
        raise UserError(f"{name} must be positive, not {value}.")
