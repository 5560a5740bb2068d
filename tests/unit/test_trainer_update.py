"""What a step may change: the weights, the optimiser's state, the average, the loss scale."""

from collections.abc import Iterator

import pytest
import torch

from lora_api.settings import Optimizer
from lora_trainer.ema import MovingAverage
from lora_trainer.group import Group, accelerated
from lora_trainer.guard import Gate
from lora_trainer.optimizers import make_optimizer
from lora_trainer.scaling import LossScale
from lora_trainer.update import Figures, Updater

CPU = torch.device("cpu")
NAN = float("nan")


@pytest.fixture
def group() -> Iterator[Group]:
    with accelerated() as alone:
        yield alone


def _updater(
    group: Group, optimizer: Optimizer = Optimizer.ADAMW, *, scale: bool = False
) -> Updater:
    # 8-bit states exist from 4096 weights on.
    parameters = {"w": torch.nn.Parameter(torch.ones(8192))}
    return Updater(
        parameters=parameters,
        optimizer=make_optimizer(
            optimizer, parameters.values(), learning_rate=0.1, weight_decay=0.01
        ),
        gate=Gate(CPU),
        max_grad_norm=1.0,
        group=group,
        scale=LossScale(CPU) if scale else None,
        average=MovingAverage(parameters, decay=0.9),
    )


def _step(updater: Updater, number: int, factor: float = 1.0) -> Figures:
    weight = updater.parameters["w"]
    loss = (weight * weight).mean() * factor
    updater.backward(loss)
    row = updater.apply(number, loss.detach()[None], learning_rate=0.1)
    return Figures.of(row.tolist())


def _numbers(value: object) -> list[torch.Tensor]:
    """All tensors in a nest of containers."""
    if isinstance(value, torch.Tensor):
        return [value.clone()]
    if isinstance(value, dict):
        return [one for key in value for one in _numbers(value[key])]
    if isinstance(value, list | tuple):
        return [one for member in value for one in _numbers(member)]
    return []


@pytest.mark.parametrize("optimizer", list(Optimizer))
@pytest.mark.parametrize("bad", [NAN, float("inf"), 1e12, -1.0])
def test_a_bad_loss_changes_neither_weights_nor_state_nor_average(
    optimizer: Optimizer, bad: float, group: Group
) -> None:
    updater = _updater(group, optimizer)
    assert not _step(updater, 0).refused
    before = _numbers(updater.state())
    figures = _step(updater, 1, factor=bad)
    assert figures.refused
    after = _numbers(updater.state())
    assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))
    assert not _step(updater, 2).refused
    later = _numbers(updater.state())
    assert any(not torch.equal(old, new) for old, new in zip(before, later, strict=True))


def test_the_pictures_at_fault_are_those_whose_own_loss_is_bad() -> None:
    figures = Figures(
        loss=NAN, gradient_norm=NAN, refused=True, rescaled=False, losses=[1.0, NAN, 2.0]
    )
    assert figures.at_fault(["a", "b", "c"]) == ["b"]


def test_all_pictures_are_named_where_only_the_gradients_are_bad() -> None:
    figures = Figures(loss=1.0, gradient_norm=NAN, refused=True, rescaled=False, losses=[1.0, 1.0])
    assert figures.at_fault(["a", "b"]) == ["a", "b"]


def test_scaled_gradients_make_the_same_update(group: Group) -> None:
    plain, scaled = _updater(group), _updater(group, scale=True)
    for number in range(3):
        _step(plain, number)
        _step(scaled, number)
    assert torch.allclose(plain.parameters["w"], scaled.parameters["w"], rtol=1e-6)


def test_an_overflow_halves_the_scale_and_only_at_scale_one_it_is_a_fault() -> None:
    scale = LossScale(CPU)
    overflow = torch.tensor(True)
    helped = [bool(scale.update(overflow)) for _ in range(20)]
    assert helped == [True] * 16 + [False] * 4
    assert scale.state()["scale"] == 1.0


def test_the_scale_grows_after_many_steps_without_an_overflow() -> None:
    scale = LossScale(CPU)
    scale.restore({"scale": 4.0, "calm": 1999.0})
    scale.update(torch.tensor(False))
    assert scale.state() == {"scale": 8.0, "calm": 0.0}


def test_the_average_is_lent_and_given_back(group: Group) -> None:
    updater = _updater(group)
    for number in range(4):
        _step(updater, number)
    own = updater.parameters["w"].detach().clone()
    with updater.finished():
        lent = updater.parameters["w"].detach().clone()
    assert not torch.equal(lent, own)
    assert torch.equal(updater.parameters["w"], own)
    updater.finish()
    assert torch.equal(updater.parameters["w"], lent)
