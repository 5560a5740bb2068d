"""Accounts of the S3 server: tests of wrong or weak credentials need users that are not root."""

from __future__ import annotations

import argparse
import os
import subprocess

from lora_cluster.errors import ClusterError


def create_user(environment: dict[str, str], options: argparse.Namespace) -> None:
    """Make or change an account and give it the buckets in `options.owns`."""
    account = [f"--access={options.access_key}", f"--secret={options.secret_key}"]
    account.append(f"--role={options.role}")
    try:
        _admin(environment, ["create-user", *account])
    except ClusterError as error:
        if "XAdminUserExists" not in error.message:
            raise
        _admin(environment, ["update-user", *account])
    for bucket in options.owns:
        owner = [f"--bucket={bucket}", f"--owner={options.access_key}"]
        _admin(environment, ["change-bucket-owner", *owner])


def _admin(environment: dict[str, str], argv: list[str]) -> None:
    login = {
        **os.environ,
        **environment,
        "ADMIN_ACCESS_KEY": environment["AWS_ACCESS_KEY_ID"],
        "ADMIN_SECRET_KEY": environment["AWS_SECRET_ACCESS_KEY"],
        "ADMIN_ENDPOINT_URL": environment["AWS_ENDPOINT_URL"],
    }
    result = subprocess.run(
        ["versitygw", "admin", *argv], env=login, capture_output=True, text=True, check=False
    )
    if result.returncode:
        said = (result.stderr or result.stdout).strip().splitlines()
        raise ClusterError(
            "S3AdminRefused", f"versitygw admin {argv[0]}: {said[-1] if said else ''}"
        )
