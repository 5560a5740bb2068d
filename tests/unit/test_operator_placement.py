"""Where a policy sends the pods of its namespace, and what it adds to a run that says nothing."""

from typing import Any

from tests.builders import RUN_UID, ATraining, a_training
from tests.policies import a_policy

from lora_api.training import WorkspaceRetention
from lora_operator.builders.job import build_job
from lora_operator.builders.placement import placed
from lora_operator.cache import Cache
from lora_operator.kube.resources import TRAININGS
from lora_operator.observe import observe
from lora_operator.policy.gpu_fit import UNSET, GpuNames, GpuNeed, gpu_names
from lora_operator.state.keys import Key
from lora_operator.state.views import PolicyWord

GPU_TAINT = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}


def pod_of(training: ATraining | None = None, **policy: Any) -> dict[str, Any]:  # noqa: ANN401
    run = (training or a_training()).run()
    assert run.spec is not None
    acting = a_policy(**policy)
    job = placed(
        build_job(run, run.spec, default_image="x:1"),
        policy=acting,
        gpu=gpu_names(acting.gpu, UNSET),
        need=None,
    )
    pod: dict[str, Any] = job["spec"]["template"]["spec"]
    return pod


def test_a_policy_that_says_nothing_changes_nothing() -> None:
    run = a_training().run()
    assert run.spec is not None
    job = build_job(run, run.spec, default_image="x:1")
    assert placed(job, policy=a_policy(), gpu=GpuNames(), need=None) == job
    assert placed(job, policy=None, gpu=GpuNames(), need=None) == job


def test_pods_go_to_the_policys_nodes() -> None:
    selector = [{"key": "pool", "value": "gpu"}, {"key": "zone", "value": ""}]
    pod = pod_of(defaults={"nodeSelector": selector})
    assert pod["nodeSelector"] == {"pool": "gpu", "zone": ""}


def test_pods_bear_the_policys_taints_beside_that_of_gpus() -> None:
    tolerations = [{"key": "spot"}, {"key": "team", "value": "a", "effect": "NoExecute"}]
    assert pod_of(defaults={"tolerations": tolerations})["tolerations"] == [
        GPU_TAINT,
        {"key": "spot", "operator": "Exists", "effect": "NoSchedule"},
        {"key": "team", "operator": "Equal", "value": "a", "effect": "NoExecute"},
    ]


def test_gpus_are_asked_for_by_the_name_that_the_cluster_gives_them() -> None:
    pod = pod_of(a_training().with_gpus(2), gpu={"resourceName": "amd.com/gpu"})
    resources = pod["containers"][0]["resources"]
    assert resources["limits"]["amd.com/gpu"] == resources["requests"]["amd.com/gpu"] == "2"
    assert "nvidia.com/gpu" not in resources["limits"]
    assert pod["tolerations"] == [{**GPU_TAINT, "key": "amd.com/gpu"}]


def test_parts_of_nvidias_gpus_are_found_behind_the_taint_of_whole_ones() -> None:
    pod = pod_of(gpu={"resourceName": "nvidia.com/mig-3g.40gb"})
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/mig-3g.40gb"] == "1"
    assert pod["tolerations"] == [GPU_TAINT, {**GPU_TAINT, "key": "nvidia.com/mig-3g.40gb"}]


def test_nodes_must_have_enough_gpu_memory_or_say_nothing_of_it() -> None:
    run = a_training().run()
    assert run.spec is not None
    need = GpuNeed(least=8000, ample=16000, what="it needs")
    names = GpuNames(memory="vendor.example/gpu.mib")
    job = placed(build_job(run, run.spec, default_image="x:1"), policy=None, gpu=names, need=need)
    key = "vendor.example/gpu.mib"
    assert job["spec"]["template"]["spec"]["affinity"] == {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [
                    {"matchExpressions": [{"key": key, "operator": "Gt", "values": ["7999"]}]},
                    {"matchExpressions": [{"key": key, "operator": "DoesNotExist"}]},
                ]
            },
            "preferredDuringSchedulingIgnoredDuringExecution": [
                {
                    "weight": 100,
                    "preference": {
                        "matchExpressions": [{"key": key, "operator": "Gt", "values": ["15999"]}]
                    },
                }
            ],
        }
    }


def test_a_run_on_the_cpu_asks_for_none_under_any_name() -> None:
    pod = pod_of(a_training().with_gpus(0), gpu={"resourceName": "amd.com/gpu"})
    assert "amd.com/gpu" not in pod["containers"][0]["resources"]["limits"]
    assert "tolerations" not in pod


def test_what_a_run_does_not_say_is_seen_as_the_policy_says_it() -> None:
    cache = Cache()
    cache.put(TRAININGS, a_training().without_secret().stored())
    policy = a_policy(defaults={"credentialsSecretName": "shared", "ttlSeconds": 60})
    word = PolicyWord(policy=policy)
    seen = observe(cache, Key("studio", "anna"), {}, words={RUN_UID: word})
    assert seen is not None
    assert seen.run.spec is not None
    assert seen.run.spec.credentials_secret_name == "shared"
    assert seen.run.spec.retention.ttl_seconds == 60


def test_of_a_run_whose_spec_can_not_be_read_is_kept_what_the_policy_says() -> None:
    cache = Cache()
    cache.put(TRAININGS, a_training().with_spec("network", {"rank": "many"}).stored())
    word = PolicyWord(policy=a_policy(defaults={"workspaceRetention": "Retain"}))
    seen = observe(cache, Key("studio", "anna"), {}, words={RUN_UID: word})
    assert seen is not None
    assert seen.run.spec is None
    assert seen.run.retention.workspace is WorkspaceRetention.RETAIN
