"""In which settings two configurations differ."""

from dataclasses import replace

from kdcache.config.differences import config_differences
from kdcache.config.seeds import parse_seeds
from kdcache.losses import open_loss
from kdcache.train.optim import OptimizerConfig
from kdcache.train.run import TrainConfig


def test_values_that_mean_the_same_are_no_difference() -> None:
    old = TrainConfig(run="r", student="a", loss="dist:tau=1", data="d", teacher="t", recipe="r")
    new = replace(old, loss="dist", epochs=7)
    assert len(config_differences(old, new, free=())) == 2
    (line,) = config_differences(old, new, free=(), meanings={"loss": open_loss})
    assert line == "epochs: 100 there, 7 now"
    other = replace(old, loss="dist:tau=2")
    assert config_differences(old, other, free=(), meanings={"loss": open_loss}) == [
        "loss: 'dist:tau=1' there, 'dist:tau=2' now"
    ]
    unset = replace(old, seeds="0:2")
    (line,) = config_differences(old, unset, free=(), meanings={"seeds": parse_seeds})
    assert line == "seeds: None there, '0:2' now"
    unread = replace(old, data="e")
    assert config_differences(old, unread, free=(), meanings={"data": parse_seeds}) == [
        "data: 'd' there, 'e' now"
    ]


def test_long_texts_that_differ_are_cut_between_their_quotes() -> None:
    start = "torchvision:" + "a" * 60
    old = TrainConfig(run="r", student=f"{start},x=1{'b' * 60}", loss="ce", data="d", recipe="r")
    (line,) = config_differences(old, replace(old, student=f"{start},y=2"), free=())
    was, now = line.removeprefix("student: ").split(" there, ")
    assert was.startswith("'...") and was.endswith("...'") and "x=1" in was
    assert now.startswith("'...") and now.endswith("y=2' now")


def test_differences_name_the_keys() -> None:
    one = TrainConfig(run="r", student="a", loss="ce", data="d", recipe="r")
    one = replace(one, optimizer=OptimizerConfig(lr=0.5))
    compute = replace(one.compute, workers=63)
    other = replace(one, optimizer=OptimizerConfig(lr=2.0), log_steps=1, compute=compute)
    assert config_differences(one, other, free=["log_steps", "compute.workers"]) == [
        "optimizer.lr: 0.5 there, 2.0 now"
    ]
    assert config_differences(one, one, free=[]) == []
    assert len(config_differences(one, other, free=[])) == 3
    more = replace(one, optimizer=OptimizerConfig(lr=0.5, options={"eps": 1}))
    assert config_differences(one, more, free=[]) == ["optimizer.options.eps: None there, 1 now"]
