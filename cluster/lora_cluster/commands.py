"""How each process is started: argument lists as values, for the full cluster and the light one."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from lora_cluster import configs
from lora_cluster.layout import Layout, Record


@dataclass(frozen=True, kw_only=True, slots=True)
class Component:
    """One supervised process.

    Attributes:
        name: What `kill`, `restart` and `logs` call it.
        argv: Program and arguments.
        needs: Components that must answer before this one starts.
        probe: How to see that it answers (see `probes.answers`); empty means "runs".
        env: Variables on top of the supervisor's.
        pass_fds: Sockets handed down (the forwarder's, made in the host's network namespace).
        manual: Starts on command only; the kubelet must not see an image store half filled.
    """

    name: str
    argv: tuple[str, ...]
    needs: tuple[str, ...] = ()
    probe: str = ""
    env: dict[str, str] = field(default_factory=dict)
    pass_fds: tuple[int, ...] = ()
    manual: bool = False


def etcd(*, data: Path, client_port: int, peer_port: int) -> Component:
    """Run etcd without fsync: a development cluster's data need not survive a power cut."""
    client = f"http://127.0.0.1:{client_port}"
    peer = f"http://127.0.0.1:{peer_port}"
    return Component(
        name="etcd",
        argv=(
            "etcd",
            f"--data-dir={data}",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            "--unsafe-no-fsync",
            "--log-level=warn",
        ),
        probe=f"tcp:127.0.0.1:{client_port}",
    )


def apiserver(
    *,
    binaries: Path,
    pki: Path,
    etcd_port: int,
    port: int,
    advertise: str,
    bind: str = "0.0.0.0",  # noqa: S104 - of the cluster's own network namespace
    audit_log: Path | None = None,
    audit_policy: Path | None = None,
) -> Component:
    """The API server with RBAC; Pod Security admission is on by default."""
    audit = (
        (
            f"--audit-policy-file={audit_policy}",
            f"--audit-log-path={audit_log}",
            "--audit-log-maxsize=100",
            "--audit-log-maxbackup=2",
        )
        if audit_log
        else ()
    )
    return Component(
        name="apiserver",
        argv=(
            str(binaries / "kube-apiserver"),
            f"--etcd-servers=http://127.0.0.1:{etcd_port}",
            f"--secure-port={port}",
            f"--bind-address={bind}",
            f"--advertise-address={advertise}",
            f"--client-ca-file={pki}/ca.crt",
            f"--tls-cert-file={pki}/apiserver.crt",
            f"--tls-private-key-file={pki}/apiserver.key",
            f"--service-account-key-file={pki}/sa.key",
            f"--service-account-signing-key-file={pki}/sa.key",
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            f"--service-cluster-ip-range={configs.SERVICE_CIDR}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged=true",
            f"--kubelet-client-certificate={pki}/admin.crt",
            f"--kubelet-client-key={pki}/admin.key",
            f"--kubelet-certificate-authority={pki}/ca.crt",
            "--kubelet-preferred-address-types=InternalIP",
            "--shutdown-delay-duration=0s",
            "--profiling=false",
            *audit,
        ),
        needs=("etcd",),
        probe=f"https://127.0.0.1:{port}/readyz",
    )


def controller_manager(
    *, binaries: Path, pki: Path, kubeconfig: Path, port: int, makes_volumes: bool = False
) -> Component:
    """The controller manager; the one bridge has all addresses, so nodes get no range.

    Args:
        binaries: Folder of the programs.
        pki: Folder of keys and certificates.
        kubeconfig: Its way to the API server.
        port: Where it serves.
        makes_volumes: Bind claims by itself (`kubernetes.io/host-path`), where no pod is real.
    """
    return Component(
        name="controller-manager",
        argv=(
            str(binaries / "kube-controller-manager"),
            f"--kubeconfig={kubeconfig}",
            f"--secure-port={port}",
            "--bind-address=127.0.0.1",
            "--use-service-account-credentials",
            # Controllers ask for their accounts first; at 20 requests a second that is 5 s.
            "--kube-api-qps=200",
            "--kube-api-burst=400",
            f"--service-account-private-key-file={pki}/sa.key",
            f"--root-ca-file={pki}/ca.crt",
            f"--cluster-cidr={configs.POD_CIDR}",
            "--allocate-node-cidrs=false",
            "--leader-elect=false",
            f"--cluster-signing-cert-file={pki}/ca.crt",
            f"--cluster-signing-key-file={pki}/ca.key",
            "--controllers=*,-node-ipam-controller,-node-route-controller",
            "--profiling=false",
            *(("--enable-hostpath-provisioner",) if makes_volumes else ()),
        ),
        needs=("apiserver",),
    )


def scheduler(*, binaries: Path, kubeconfig: Path, port: int) -> Component:
    """The scheduler, alone and so without an election."""
    return Component(
        name="scheduler",
        argv=(
            str(binaries / "kube-scheduler"),
            f"--kubeconfig={kubeconfig}",
            "--leader-elect=false",
            "--bind-address=127.0.0.1",
            f"--secure-port={port}",
            "--kube-api-qps=200",
            "--kube-api-burst=400",
            "--profiling=false",
        ),
        needs=("apiserver",),
    )


def kwok(*, program: Path, kubeconfig: Path, stages: Path, pod_cidr: str, port: int) -> Component:
    """KWOK: plays the kubelet of every node that carries its annotation.

    Args:
        program: What `ensure_kwok` built.
        kubeconfig: Its way to the API server.
        stages: File that says what becomes of pods, and when.
        pod_cidr: Where pods get their addresses from.
        port: Where it serves.
    """
    return Component(
        name="kwok",
        argv=(
            str(program),
            f"--kubeconfig={kubeconfig}",
            f"--config={stages}",
            f"--cidr={pod_cidr}",
            "--manage-all-nodes=true",
            "--node-lease-duration-seconds=40",
            f"--server-address=127.0.0.1:{port}",
        ),
        needs=("apiserver",),
    )


def host_components(
    layout: Layout, record: Record, *, binaries: Path, python: str, listeners: dict[str, int]
) -> list[Component]:
    """All of the full cluster; `listeners` maps "apiserver" and "s3" to inherited sockets."""
    pki, conf = layout.pki, layout.conf
    return [
        etcd(data=layout.state / "etcd", client_port=2379, peer_port=2380),
        Component(
            name="containerd",
            argv=("containerd", "--config", str(conf / "containerd.toml"), "--log-level=warn"),
            probe=f"unix:{configs.CONTAINERD_SOCKET}",
        ),
        Component(
            name="s3",
            argv=(
                str(binaries / "versitygw"),
                "--port",
                f":{configs.S3_PORT}",
                "--iam-dir",
                str(layout.state / "s3-accounts"),
                "--health",
                "/health",
                "--quiet",
                "posix",
                "--sidecar",
                str(layout.state / "s3-metadata"),
                str(layout.state / "s3-data"),
            ),
            env={
                "ROOT_ACCESS_KEY": record.s3_access_key,
                "ROOT_SECRET_KEY": record.s3_secret_key,
            },
            probe=f"tcp:127.0.0.1:{configs.S3_PORT}",
        ),
        Component(
            name="forwarder",
            argv=(
                python,
                "-m",
                "lora_cluster.forward",
                f"{listeners['apiserver']}=127.0.0.1:{configs.API_PORT}",
                f"{listeners['s3']}=127.0.0.1:{configs.S3_PORT}",
            ),
            pass_fds=tuple(listeners.values()),
        ),
        apiserver(
            binaries=binaries,
            pki=pki,
            etcd_port=2379,
            port=configs.API_PORT,
            advertise=configs.NODE_IP,
            audit_log=layout.audit_log,
            audit_policy=conf / "audit-policy.json",
        ),
        controller_manager(
            binaries=binaries,
            pki=pki,
            kubeconfig=conf / "controller-manager.kubeconfig",
            port=10257,
        ),
        scheduler(binaries=binaries, kubeconfig=conf / "scheduler.kubeconfig", port=SCHEDULER_PORT),
        Component(
            name="kubelet",
            argv=(
                str(binaries / "kubelet"),
                f"--config={conf}/kubelet.json",
                f"--kubeconfig={conf}/kubelet.kubeconfig",
                f"--hostname-override={configs.NODE_NAME}",
                f"--node-ip={configs.NODE_IP}",
                "--root-dir=/var/lib/kubelet",
                f"--cert-dir={pki}",
                "--node-labels=" + ",".join(f"{k}={v}" for k, v in GPU_LABELS.items()),
            ),
            needs=("containerd", "apiserver"),
            manual=True,
        ),
        Component(
            name="proxy",
            argv=(
                str(binaries / "kube-proxy"),
                f"--kubeconfig={conf}/proxy.kubeconfig",
                f"--hostname-override={configs.NODE_NAME}",
                "--proxy-mode=iptables",
                f"--cluster-cidr={configs.POD_CIDR}",
                "--conntrack-max-per-core=0",
                "--nodeport-addresses=127.0.0.0/8",
            ),
            needs=("apiserver",),
        ),
        Component(
            name="fakegpu",
            argv=(str(binaries / "fakegpu"), f"--count={FAKE_GPUS}"),
        ),
    ]


SCHEDULER_PORT = 10259
FAKE_GPUS = 4
GPU_LABELS = {
    "nvidia.com/gpu.present": "true",
    "nvidia.com/gpu.count": str(FAKE_GPUS),
    "nvidia.com/gpu.product": "fake-gpu",
    "nvidia.com/gpu.memory": "24576",
}
