"""`python -m lora_operator`: the command line, in a pod and on a laptop alike.

A module of its own because it is the only one that reads arguments and ends the process.
"""

import argparse
import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError

from lora_api.policy import GpuSettings
from lora_api.wording import explain
from lora_operator import logs
from lora_operator.app import SIGNALS, End, run
from lora_operator.settings import DEFAULT_TRAINER_IMAGE, ProgressRoute, Settings, default_of

DESCRIPTION = """\
Train LoRAs of diffusion models: watches LoRATrainings, runs each as a Job, mirrors its progress.

Runs in a pod with its ServiceAccount, or from a laptop against the current kubeconfig
(KUBECONFIG or ~/.kube/config). Every option can be set by an environment variable, too."""

EPILOG = """\
examples:
  python -m lora_operator --no-leader-elect          on a laptop, all namespaces
  python -m lora_operator --namespace studio         only what is in the namespace studio
  LORA_TRAINER_IMAGE=registry/lora-trainer:1.2 python -m lora_operator

SIGTERM ends it gracefully: what is in work is finished, the Lease is given back, the exit status
is 0. A leader that lost its Lease begins anew as a standby, under the same process id. The exit
status is 1 where a part of it ended, 2 where an option is wrong."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and run until stopped; returns the exit status."""
    settings = parse(sys.argv[1:] if arguments is None else arguments, os.environ)
    logs.set_up(log_format=settings.log_format, level=settings.log_level)
    _collect_rarely()
    end = asyncio.run(run(settings))
    # Who calls us with arguments of their own has a process that is not ours to replace.
    if end is End.LEASE_LOST and arguments is None:
        _begin_anew()
    return end


def _begin_anew() -> None:
    """Become a standby that remembers nothing, as if the process had ended and been started again.

    It has not ended, so the kubelet does not make the next start wait: 10 s, then 20 s, in the end
    5 minutes, in which a replica would be missing though nothing is wrong with it.
    """
    # Until the new program listens they would kill it or, in a container, not be heard at all.
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    logging.shutdown()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - our own command


def _collect_rarely() -> None:
    """Look for cyclic garbage less often than Python does by itself.

    Each event is thousands of short-lived dictionaries without a cycle: the collector went over
    them, and over the whole cache, for an eighth of the CPU time of a crowd (benchmarks/operator).
    """
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def parse(arguments: Sequence[str], environment: Mapping[str, str]) -> Settings:
    """Settings from the command line, then the environment, then the defaults."""
    parser = _parser(environment)
    given = parser.parse_args(arguments)
    namespaces = [part for text in given.namespace for part in text.split(",") if part]
    defaults = Settings()
    return Settings(
        namespaces=tuple(dict.fromkeys(namespaces)),
        trainer_image=given.trainer_image,
        gpu=_gpu(parser, given),
        progress_via=ProgressRoute(given.progress_via),
        host=given.host,
        port=given.metrics_port,
        webhook_certificate=given.webhook_certificate,
        webhook_port=given.webhook_port,
        leader_elect=given.leader_elect,
        lease_name=given.lease_name,
        lease_namespace=given.lease_namespace,
        identity=environment.get("POD_NAME") or defaults.identity,
        workers=given.workers,
        log_format=given.log_format,
        log_level=given.log_level,
    )


def _gpu(parser: argparse.ArgumentParser, given: argparse.Namespace) -> GpuSettings:
    try:
        return GpuSettings(
            resource_name=given.gpu_resource or None,
            memory_label=given.gpu_memory_label or None,
            product_label=given.gpu_product_label or None,
        )
    except ValidationError as error:
        parser.error(f"--gpu-...: {explain(error)}")


def _parser(environment: Mapping[str, str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lora_operator",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    defaults = Settings()

    def env(name: str, fallback: str) -> str:
        return default_of(name, environment, fallback)

    add = parser.add_argument
    watched = env("namespaces", "")
    add(
        "-n", "--namespace", "--namespaces", action="append", metavar="NAME",
        default=[watched] if watched else [],
        help="serve only this namespace; may be repeated or hold a comma-separated list "
        "(default: all namespaces; LORA_OPERATOR_NAMESPACES)",
    )  # fmt: skip
    add(
        "--trainer-image", metavar="IMAGE",
        default=environment.get("LORA_TRAINER_IMAGE") or DEFAULT_TRAINER_IMAGE,
        help="image of runs that name none in spec.image (default: %(default)s; "
        "LORA_TRAINER_IMAGE)",
    )  # fmt: skip
    add(
        "--gpu-resource", metavar="NAME", default=env("gpu_resource", ""),
        help="resource that pods ask for where no policy names one (default: nvidia.com/gpu; "
        "LORA_OPERATOR_GPU_RESOURCE)",
    )  # fmt: skip
    add(
        "--gpu-memory-label", metavar="KEY", default=env("gpu_memory_label", ""),
        help="node label with the memory of one GPU in MiB (default: the resource and .memory; "
        "LORA_OPERATOR_GPU_MEMORY_LABEL)",
    )  # fmt: skip
    add(
        "--gpu-product-label", metavar="KEY", default=env("gpu_product_label", ""),
        help="node label with the name of the GPUs (default: the resource and .product; "
        "LORA_OPERATOR_GPU_PRODUCT_LABEL)",
    )  # fmt: skip
    add(
        "--progress-via", choices=[route.value for route in ProgressRoute],
        default=env("progress_via", ProgressRoute.AUTO),
        help="how trainers are asked for progress: direct to the pod's address, through the API "
        "server's pod proxy (needs get on pods/proxy), or auto: direct in a cluster, proxy from "
        "outside (default: %(default)s; LORA_OPERATOR_PROGRESS_VIA)",
    )  # fmt: skip
    add(
        "--host", metavar="ADDRESS", default=env("host", defaults.host),
        help="address of the HTTP server (default: %(default)s; LORA_OPERATOR_HOST)",
    )  # fmt: skip
    add(
        "--metrics-port", type=int, metavar="PORT",
        default=env("metrics_port", str(defaults.port)),
        help="port of /metrics, /healthz and /readyz (default: %(default)s; "
        "LORA_OPERATOR_METRICS_PORT)",
    )  # fmt: skip
    add(
        "--webhook-certificate", type=Path, metavar="FOLDER",
        default=env("webhook_certificate", "") or None,
        help="serve the admission webhook with tls.crt and tls.key of this folder (default: none "
        "is served; LORA_OPERATOR_WEBHOOK_CERTIFICATE)",
    )  # fmt: skip
    add(
        "--webhook-port", type=int, metavar="PORT",
        default=env("webhook_port", str(defaults.webhook_port)),
        help="port of the admission webhook (default: %(default)s; LORA_OPERATOR_WEBHOOK_PORT)",
    )  # fmt: skip
    add(
        "--leader-elect", action=argparse.BooleanOptionalAction,
        default=env("leader_elect", "true").lower() not in {"false", "0", "no"},
        help="hold a Lease before acting, so that of several replicas only one acts (default: on; "
        "LORA_OPERATOR_LEADER_ELECT)",
    )  # fmt: skip
    add(
        "--lease-name", metavar="NAME", default=env("lease_name", defaults.lease_name),
        help="name of the Lease (default: %(default)s; LORA_OPERATOR_LEASE_NAME)",
    )  # fmt: skip
    add(
        "--lease-namespace", metavar="NAME",
        default=env("lease_namespace", environment.get("POD_NAMESPACE", "")) or None,
        help="namespace of the Lease (default: our own; LORA_OPERATOR_LEASE_NAMESPACE)",
    )  # fmt: skip
    add(
        "--workers", type=int, metavar="N", default=env("workers", str(defaults.workers)),
        help="runs that are looked at at once (default: %(default)s; LORA_OPERATOR_WORKERS)",
    )  # fmt: skip
    add(
        "--log-format", choices=["text", "json"], default=env("log_format", defaults.log_format),
        help="lines for people or JSON (default: %(default)s; LORA_OPERATOR_LOG_FORMAT)",
    )  # fmt: skip
    add(
        "--log-level", choices=["DEBUG", "INFO", "WARNING", "ERROR"], type=str.upper,
        default=env("log_level", defaults.log_level).upper(),
        help="what is logged (default: %(default)s; LORA_OPERATOR_LOG_LEVEL)",
    )  # fmt: skip
    return parser


if __name__ == "__main__":
    sys.exit(main())
