"""Which options a sweep varies, read from overrides in Hydra's own grammar."""

import re
from collections.abc import Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Glob, IntervalSweep, Override, Quote, QuotedString, RangeSweep
from hydra.errors import HydraException

from ..agent.sweep import Choices, Numbers, Space
from .schema import ConfigError

_FUNCTION = re.compile(r"(choice|range|interval|glob|tag|sort|shuffle|int|float)\(")


def read_sweep(overrides: Sequence[str], lists: Sequence[str] = ()) -> tuple[list[str], Space]:
    """Tell what is varied from what is the same in all trials.

    `seed=0,1,2`, `choice(a,b)`, `range(4,16,2)`, `interval(0.1,4)` and `tag(log,interval(1e-4,1e-1))` are varied, as
    Hydra reads them; `int(...)`, `float(...)` and `sort(...)` work on them. All else is left as it was written, which
    includes what Hydra cannot read, such as paths with brackets.

    Args:
        overrides: `key=value`.
        lists: keys whose values are lists, in which commas do not mean a sweep.

    Returns:
        the overrides that stay the same, and the values of each key that is varied.

    Raises:
        ConfigError: a sweep that cannot be understood, or is not offered.
    """
    parser, fixed, space = OverridesParser.create(), list[str](), Space()
    for text in overrides:
        key, separator, value = text.partition("=")
        if key.startswith("hydra"):
            raise ConfigError(f"{key} is Hydra's own; here it is sweep.trials=, sweep.seed=, sweep.metric= and out=")
        if not separator or not re.fullmatch(r"[A-Za-z_][\w.]*", key):
            raise ConfigError(f"override must have the form key=value, got {text!r}")
        if key in space:
            raise ConfigError(f"{key} must be given once where it is varied, got it again as {text!r}")
        meant = bool(_FUNCTION.match(value))
        override = None
        if meant or key not in lists:
            try:
                override = parser.parse_override(text)
            except HydraException as error:
                if meant:
                    raise ConfigError(f"{key}: {str(error).splitlines()[0]}") from error
        if override is None or not override.is_sweep_override():
            fixed.append(text)
        else:
            space[key] = _varied(key, override)
    for text in fixed:
        if text.split("=", 1)[0] in space:
            raise ConfigError(
                f"{text.split('=', 1)[0]} must be given once where it is varied, got it again as {text!r}"
            )
    return fixed, space


def _varied(key: str, override: Override) -> Choices | Numbers:
    sweep = override.value()
    if isinstance(sweep, Glob) or getattr(sweep, "shuffle", False):
        raise ConfigError(f"{key}: glob and shuffle are not offered, name the values")
    assert isinstance(sweep, ChoiceSweep | RangeSweep | IntervalSweep)
    if sweep.tags - {"log"}:
        raise ConfigError(f"{key}: tag must be log, got {', '.join(sorted(sweep.tags - {'log'}))}")
    log = "log" in sweep.tags
    if isinstance(sweep, ChoiceSweep):
        pairs = zip(override.sweep_iterator(), override.sweep_string_iterator(), strict=True)
        return Choices(tuple(dict.fromkeys(_written(value, text) for value, text in pairs)))
    if isinstance(sweep, IntervalSweep):
        assert sweep.start is not None
        assert sweep.end is not None
        integer = isinstance(sweep.start, int) and isinstance(sweep.end, int)
        low, high, step = sweep.start, sweep.end, None
    else:
        values: list[float] = sorted(sweep.range())
        if not values:
            raise ConfigError(f"{key}: range must hold a value, got none")
        integer = all(isinstance(value, int) for value in values)
        low, high, step = values[0], values[-1], abs(sweep.step)
        log = log and len(values) > 1
    if low > high or (log and (low <= 0 or not (step is None or (integer and step == 1)))):
        rule = "from above 0, in whole steps of 1" if log else "from the lower end to the higher"
        raise ConfigError(f"{key} must go {rule}, got {override.input_line}")
    return Numbers(low, high, integer, log, step)


def _written(value: object, text: str) -> str:
    """A value as an override has it: where Hydra escapes characters, quotes do it as well and are read here."""
    if isinstance(value, str) and value != text:
        value = QuotedString(value, Quote.single)
    return value.with_quotes() if isinstance(value, QuotedString) else text
