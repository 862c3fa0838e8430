"""How a page tells numbers."""

from kdcache.report.estimates import Difference, Estimate

NONE = "\u2013"
"""What stands where there is no number."""
_MINUS = "\u2212"


def with_error(estimate: Estimate | None, decimals: int = 2) -> str:
    """Return a mean with its standard error, such as `91.20 ± 0.31`."""
    if estimate is None:
        return NONE
    text = number(estimate.mean, decimals)
    if estimate.error is not None:
        text += f" \u00b1 {estimate.error:.{decimals}f}"
    return text


def number(value: float, decimals: int = 2) -> str:
    """Return a number with a true minus."""
    return f"{value:.{decimals}f}".replace("-", _MINUS)


def signed(difference: Difference | None, decimals: int = 2) -> str:
    """Return a difference with its sign and standard error, such as `+1.20 ± 0.31`."""
    if difference is None:
        return NONE
    sign = "+" if difference.estimate.mean > 0 else ""
    return sign + with_error(difference.estimate, decimals)
