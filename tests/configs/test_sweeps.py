"""Hydra's grammar of sweeps is read as Hydra reads it, and what is no sweep is left alone."""

import pytest

from forethought.agent.sweep import Choices, Numbers
from forethought.configs.schema import ConfigError
from forethought.configs.sweeps import read_sweep


@pytest.mark.parametrize(
    ("override", "meant"),
    [
        ("k=0,1,2", Choices(("0", "1", "2"))),
        ("k=a,b,a", Choices(("a", "b"))),
        ("k=null,3", Choices(("null", "3"))),
        ("k=choice('a b',c)", Choices(("'a b'", "c"))),
        ("k=[1,2],[3]", Choices(("[1,2]", "[3]"))),
        ("k=sort(3,1,2)", Choices(("1", "2", "3"))),
        ("k=interval(0,4)", Numbers(0.0, 4.0)),
        ("k=int(interval(0,4))", Numbers(0, 4, integer=True)),
        ("k=tag(log,interval(1e-4,0.1))", Numbers(1e-4, 0.1, log=True)),
        ("k=tag(log,int(interval(1,64)))", Numbers(1, 64, integer=True, log=True)),
        ("k=range(4,16,4)", Numbers(4, 12, integer=True, step=4)),
        ("k=range(10,0,-3)", Numbers(1, 10, integer=True, step=3)),
        ("k=range(0,1,0.25)", Numbers(0.0, 0.75, step=0.25)),
    ],
)
def test_what_is_varied(override: str, meant: Choices | Numbers) -> None:
    fixed, space = read_sweep(["before=1", override, "after=2"])
    assert fixed == ["before=1", "after=2"]
    assert space == {"k": meant}


@pytest.mark.parametrize(
    "override",
    [
        "k=3",
        "k='a,b'",
        "k=[a,b]",
        "k={a: 1, b: 2}",
        "k=module:Env-v0",
        "k=/data/my runs/1",
        "k=it's (a), b",
        "k=",
        "l=a,b",
    ],
)
def test_what_is_left_alone(override: str) -> None:
    assert read_sweep([override], lists=["l"]) == ([override], {})


def test_a_list_is_varied_by_choice() -> None:
    assert read_sweep(["l=choice(a,b)"], lists=["l"]) == ([], {"l": Choices(("a", "b"))})


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["k=interval(0,"], "k: "),
        (["k=interval(4,1)"], "k must go from the lower end to the higher, got k=interval(4,1)"),
        (["k=tag(log,interval(0,1))"], "k must go from above 0, in whole steps of 1"),
        (["k=tag(log,range(1,9,2))"], "k must go from above 0, in whole steps of 1"),
        (["k=tag(log,range(1.0,5.0,1.0))"], "k must go from above 0, in whole steps of 1"),
        (["k=tag(fast,interval(0,1))"], "k: tag must be log, got fast"),
        (["k=glob(*)"], "k: glob and shuffle are not offered, name the values"),
        (["k=shuffle(a,b)"], "k: glob and shuffle are not offered"),
        (["k=range(3,3)"], "k: range must hold a value, got none"),
        (["k=1,2", "k=3"], "k must be given once where it is varied, got it again as 'k=3'"),
        (["k=3", "k=1,2"], "k must be given once where it is varied, got it again as 'k=3'"),
        (["hydra/sweeper=optuna"], "hydra/sweeper is Hydra's own; here it is sweep.trials="),
        (["k"], "override must have the form key=value, got 'k'"),
        (["+k=1,2"], "override must have the form key=value, got '+k=1,2'"),
    ],
)
def test_refusals_name_key_and_rule(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_sweep(overrides)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
