"""How large a GPU a run needs, how a cluster calls its GPUs, and what is said where none fits."""

from typing import Any

import pytest
from tests.builders import a_training

from lora_api.policy import GpuSettings
from lora_api.training import LoRATrainingSpec
from lora_operator.policy.gpu_fit import UNSET, GpuNames, GpuNeed, gpu_names, gpu_need, misfit

T4 = {"nvidia.com/gpu.product": "Tesla-T4", "nvidia.com/gpu.memory": "15360"}
H100 = {"nvidia.com/gpu.product": "NVIDIA-H100", "nvidia.com/gpu.memory": "81559"}
FLUX = GpuNeed(least=38_000, ample=60_000, what="flux at 1024 pixels needs")
MIG = GpuSettings(resource_name="nvidia.com/mig-3g.40gb")
AMD = GpuSettings(resource_name="amd.com/gpu", memory_label="amd.com/gpu.vram-mib")


def spec_of(**fields: Any) -> LoRATrainingSpec:  # noqa: ANN401 - as a user writes them
    body = a_training()
    for path, value in fields.items():
        body = body.with_spec(path.replace("__", "."), value)
    return LoRATrainingSpec.model_validate(body.spec)


def need_of(**fields: Any) -> GpuNeed:  # noqa: ANN401
    need = gpu_need(spec_of(**fields))
    assert need is not None
    return need


def test_a_run_that_may_be_squeezed_needs_what_its_leanest_way_needs() -> None:
    auto = need_of(recipe="flux")
    assert auto.least == need_of(recipe="flux", optimization__memory="nf4").least
    assert auto.ample == need_of(recipe="flux", optimization__memory="checkpointing").least
    assert auto.least < auto.ample


@pytest.mark.parametrize("memory", ["none", "checkpointing", "fp8", "nf4"])
def test_a_run_that_names_its_way_needs_that_and_no_more(memory: str) -> None:
    need = need_of(recipe="sdxl", optimization__memory=memory)
    assert need.least == need.ample


def test_what_is_saved_is_needed_less() -> None:
    ways = ("none", "checkpointing", "fp8", "nf4")
    needs = [need_of(recipe="flux", optimization__memory=way).least for way in ways]
    assert needs == sorted(needs, reverse=True)
    assert len(set(needs)) == len(ways)


def test_what_a_run_says_itself_counts_and_not_the_estimate() -> None:
    assert need_of(recipe="wan", resources__gpuMemory="16Gi") == GpuNeed(
        least=16384, ample=16384, what="spec.resources.gpuMemory asks for"
    )


@pytest.mark.parametrize("fields", [{"resources__gpus": 0}, {"recipe": "of-tomorrow"}])
def test_of_nodes_nothing_is_demanded_for_a_run_without_gpu_or_figures(fields: Any) -> None:  # noqa: ANN401
    assert gpu_need(spec_of(**fields)) is None


NAMES: dict[str, tuple[GpuSettings | None, GpuSettings, GpuNames]] = {
    "nobody says anything": (None, UNSET, GpuNames()),
    "the operator has parts of GPUs": (
        None,
        MIG,
        GpuNames(
            resource="nvidia.com/mig-3g.40gb",
            memory="nvidia.com/mig-3g.40gb.memory",
            product="nvidia.com/mig-3g.40gb.product",
        ),
    ),
    "the operator has another vendor's, the policy nothing": (
        UNSET,
        AMD,
        GpuNames(
            resource="amd.com/gpu", memory="amd.com/gpu.vram-mib", product="amd.com/gpu.product"
        ),
    ),
    "the policy has another resource, of which the operator's labels say nothing": (
        MIG,
        AMD,
        GpuNames(
            resource="nvidia.com/mig-3g.40gb",
            memory="nvidia.com/mig-3g.40gb.memory",
            product="nvidia.com/mig-3g.40gb.product",
        ),
    ),
    "the policy names a label alone": (
        GpuSettings(memory_label="team.example/mib"),
        AMD,
        GpuNames(resource="amd.com/gpu", memory="team.example/mib", product="amd.com/gpu.product"),
    ),
    "a name is too long for a label": (
        GpuSettings(resource_name=f"vendor.example/{'x' * 60}", product_label="p"),
        UNSET,
        GpuNames(resource=f"vendor.example/{'x' * 60}", memory=None, product="p"),
    ),
}


@pytest.mark.parametrize("sentence", NAMES)
def test_gpus_are_called_as_policy_and_operator_say_where(sentence: str) -> None:
    policy, operator, names = NAMES[sentence]
    assert gpu_names(policy, operator) == names


def test_where_no_gpu_fits_it_is_said_which_there_are() -> None:
    nodes = [T4, T4, {"nvidia.com/gpu.memory": "24576"}, {"kubernetes.io/os": "linux"}]
    assert misfit(FLUX, nodes, GpuNames()) == (
        "No GPU of the labelled nodes has the 38000 MiB of memory that flux at 1024 pixels needs. "
        "They are: Tesla-T4 (15360 MiB) on 2 nodes, a GPU without a name (24576 MiB) on 1 node. "
        "Add a node with such a GPU, or create the run again with a lower resolution or batch "
        "size, or a leaner optimization.memory."
    )


FITS: dict[str, list[dict[str, str]]] = {
    "one is larger": [T4, H100],
    "one is just as large": [T4, {"nvidia.com/gpu.memory": "38000"}],
    "no node says anything": [{"kubernetes.io/os": "linux"}, {}],
    "there are no nodes": [],
    **{
        f"the label {text!r} is no number": [{"nvidia.com/gpu.memory": text}]
        for text in ("", "lots", "-5", "1e5", "64G", "\u0661\u0662")
    },
}


@pytest.mark.parametrize("sentence", FITS)
def test_nothing_is_said_where(sentence: str) -> None:
    assert misfit(FLUX, FITS[sentence], GpuNames()) is None


def test_an_inventory_of_many_kinds_is_cut_short() -> None:
    nodes = [{"nvidia.com/gpu.memory": str(size)} for size in range(100, 120)]
    told = misfit(FLUX, nodes, GpuNames())
    assert told is not None
    assert "and 12 more kinds. Add" in told


def test_only_the_named_label_counts() -> None:
    names = gpu_names(AMD, UNSET)
    node = {"amd.com/gpu.vram-mib": "24576", "nvidia.com/gpu.memory": "81559"}
    assert "(24576 MiB)" in (misfit(FLUX, [node], names) or "")
