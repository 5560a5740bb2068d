"""What counts as more alike to the training pictures: a gain that is the LoRA's."""

import pytest

from lora_trainer.similarity import NOISE, Similarity

# Similarity of the base model's samples, of the LoRA's, and whether that is nearer.
GAINS = {
    "a clear gain": (0.5, 0.6, True),
    "a small gain": (0.5, 0.5 + 2 * NOISE, True),
    "no gain": (0.5, 0.5, False),
    "a gain of one rounding": (0.5, 0.5 + 2**-24, False),
    "a gain within numerical noise": (0.5, 0.5 + NOISE / 2, False),
    "a loss": (0.5, 0.4, False),
    "a gain from below zero": (-0.2, -0.1, True),
}


@pytest.mark.parametrize("name", GAINS)
def test_samples_are_alike_where_the_gain_is_above_noise(name: str) -> None:
    base, lora, alike = GAINS[name]
    found = Similarity(number=1, prompt="zorp", base=base, lora=lora)
    assert found.alike is alike
    assert found.to_json()["alike"] is alike
