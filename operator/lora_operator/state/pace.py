"""How soon a wait is looked at again: what rules ask for, the observer has to agree with."""

# A pod follows its Job within a second; only then is it worth asking what holds it up.
FIRST_LOOK_SECONDS = 5
LOOK_AGAIN_SECONDS = 30
