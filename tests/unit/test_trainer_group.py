"""Who trains together, and in what precision, is forgotten with each training."""

import os

import pytest
import torch

from lora_api.settings import Precision
from lora_trainer.group import Arithmetic, accelerated

DTYPES = {
    Precision.FP32: torch.float32,
    Precision.BF16: torch.bfloat16,
    Precision.FP16: torch.float16,
}


@pytest.mark.parametrize("first", DTYPES)
@pytest.mark.parametrize("then", DTYPES)
def test_each_training_has_its_own_precision(first: Precision, then: Precision) -> None:
    for precision in (first, then):
        with accelerated(Arithmetic(precision=precision)) as group:
            with group.autocast():
                found = torch.ones(2, 2) @ torch.ones(2, 2)
            assert found.dtype is DTYPES[precision]


def test_what_a_pod_says_of_other_processes_is_not_about_this_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    with accelerated() as group:
        assert (group.rank, group.size, group.leads) == (0, 1, True)
    assert (os.environ["WORLD_SIZE"], os.environ["LOCAL_RANK"]) == ("2", "1")


def test_the_batches_of_a_step_make_the_gradient_of_their_mean() -> None:
    weight = torch.nn.Parameter(torch.zeros(3))
    with accelerated(Arithmetic(accumulation=2)) as group:
        module = group.shared([weight])
        for factor in (1.0, 3.0):
            with group.accumulating(module):
                group.backward(module(lambda factor=factor: (weight * factor).sum()))
    assert weight.grad is not None
    assert weight.grad.tolist() == [2.0] * 3


def test_a_training_leaves_nothing_of_itself_behind(capfd: pytest.CaptureFixture[str]) -> None:
    before = dict(os.environ)
    with accelerated(Arithmetic(precision=Precision.BF16, accumulation=3)):
        pass
    assert dict(os.environ) == before
    assert capfd.readouterr().out == ""
    with accelerated() as group:
        weight = torch.nn.Parameter(torch.zeros(1))
        group.backward(group.shared([weight])(weight.sum))
    assert weight.grad is not None
    assert weight.grad.tolist() == [1.0]
