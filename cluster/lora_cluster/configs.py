"""What the components read from files: pure functions from settings to text.

Kubernetes reads JSON wherever it reads YAML, hence JSON throughout.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from lora_cluster.pki import Identity

NODE_NAME = "lora-node"
NODE_IP = "10.88.0.1"
POD_CIDR = "10.88.0.0/16"
SERVICE_CIDR = "10.96.0.0/16"
API_SERVICE_IP = "10.96.0.1"
DNS_SERVICE_IP = "10.96.0.10"
API_PORT = 6443
S3_PORT = 9000
CONTAINERD_SOCKET = "/run/containerd/containerd.sock"
SANDBOX_IMAGE = "localhost/lora-busybox:1"

API_SERVER_NAMES = (
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
    "localhost",
    "127.0.0.1",
    API_SERVICE_IP,
    NODE_IP,
)

CONTROL_PLANE_IDENTITIES = [
    Identity(file="apiserver", common_name="kube-apiserver", names=API_SERVER_NAMES),
    Identity(file="admin", common_name="admin", organization="system:masters"),
    Identity(file="controller-manager", common_name="system:kube-controller-manager"),
]
SCHEDULER = Identity(file="scheduler", common_name="system:kube-scheduler")
NODE_IDENTITIES = [
    SCHEDULER,
    Identity(
        file="kubelet",
        common_name=f"system:node:{NODE_NAME}",
        organization="system:nodes",
        names=(NODE_NAME, NODE_IP, "127.0.0.1"),
    ),
    Identity(file="proxy", common_name="system:kube-proxy"),
]


def kubeconfig(*, server: str, pki: Path, user: str) -> str:
    """A self-contained kubeconfig for one identity of `pki`."""

    def embedded(file: str) -> str:
        return base64.b64encode((pki / file).read_bytes()).decode()

    cluster = {"server": server, "certificate-authority-data": embedded("ca.crt")}
    credentials = {
        "client-certificate-data": embedded(f"{user}.crt"),
        "client-key-data": embedded(f"{user}.key"),
    }
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "lora", "cluster": cluster}],
            "users": [{"name": user, "user": credentials}],
            "contexts": [{"name": "lora", "context": {"cluster": "lora", "user": user}}],
            "current-context": "lora",
        },
        indent=1,
    )


def audit_policy() -> str:
    """Metadata of every request once, when answered; probes of the server itself are noise."""
    probes = ["/healthz*", "/livez*", "/readyz*", "/version", "/metrics"]
    return _document(
        "audit.k8s.io/v1",
        "Policy",
        {
            "omitStages": ["RequestReceived"],
            "rules": [{"level": "None", "nonResourceURLs": probes}, {"level": "Metadata"}],
        },
    )


def kubelet(*, pki: Path, cgroup_root: str, pod_logs: Path, volume_plugins: Path) -> str:
    """The kubelet's configuration for one small machine that may lack systemd and cgroup v2."""
    return _document(
        "kubelet.config.k8s.io/v1beta1",
        "KubeletConfiguration",
        {
            "address": "0.0.0.0",  # noqa: S104 - of the cluster's own network namespace
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(pki / "ca.crt")},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": str(pki / "kubelet.crt"),
            "tlsPrivateKeyFile": str(pki / "kubelet.key"),
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": cgroup_root,
            "failCgroupV1": False,
            "failSwapOn": False,
            # Both need CAP_SYS_RESOURCE beyond these values, which virtual machines may withhold.
            "oomScoreAdj": 0,
            "maxOpenFiles": 20000,
            "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
            "clusterDNS": [DNS_SERVICE_IP],
            "clusterDomain": "cluster.local",
            "resolvConf": "/dev/null",
            "enforceNodeAllocatable": [],
            "evictionHard": {
                "memory.available": "100Mi",
                "nodefs.available": "1%",
                "imagefs.available": "1%",
            },
            "imageGCHighThresholdPercent": 100,
            "imageGCLowThresholdPercent": 99,
            # A device plugin's devices show up at the next look at the node; 10 s is the default.
            "nodeStatusUpdateFrequency": "2s",
            "nodeLeaseDurationSeconds": 40,
            "syncFrequency": "20s",
            "podLogsDir": str(pod_logs),
            "volumePluginDir": str(volume_plugins),
            "serializeImagePulls": False,
            "shutdownGracePeriod": "0s",
        },
    )


def containerd(*, root: Path) -> str:
    """Settings of containerd 1.6; `root` holds images and outlives the cluster."""
    return f"""version = 2
root = "{root}"
state = "/run/containerd"
[grpc]
  address = "{CONTAINERD_SOCKET}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{SANDBOX_IMAGE}"
  restrict_oom_score_adj = true
  disable_apparmor = true
  disable_hugetlb_controller = true
  tolerate_missing_hugetlb_controller = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "/etc/cni/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
"""


def cni() -> str:
    """One bridge with addresses from the pod range; nothing leaves the network namespace."""
    bridge = {
        "type": "bridge",
        "bridge": "cni0",
        "isGateway": True,
        "ipMasq": False,
        "hairpinMode": True,
        "ipam": {
            "type": "host-local",
            "ranges": [[{"subnet": POD_CIDR}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    }
    plugins = [bridge, {"type": "portmap", "capabilities": {"portMappings": True}}]
    return json.dumps({"cniVersion": "0.4.0", "name": "lora", "plugins": plugins}, indent=1)


def _document(api_version: str, kind: str, body: dict[str, Any]) -> str:
    return json.dumps({"apiVersion": api_version, "kind": kind, **body}, indent=1)
