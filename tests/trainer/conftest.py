"""What the trainer's tests share: a miniature base model, pictures, an S3 server."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from pytest import TempPathFactory
from tests.trainer.jobs import AJob, a_job
from tests.trainer.s3server import S3Server, s3_server
from tests.trainer.tiny import make_base_model, make_pictures

from lora_api.result import Result

# Two test sessions on two cores must not fight with spinning threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def own_environment() -> Iterator[None]:
    """A run confines libraries to its workspace through variables; each test gets them back."""
    before = dict(os.environ)
    for name in list(os.environ):
        if name.startswith("AWS_"):
            del os.environ[name]
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def base_model(tmp_path_factory: TempPathFactory) -> Path:
    """The miniature base model."""
    return make_base_model(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: TempPathFactory) -> Path:
    """Five good pictures, one with a caption."""
    folder = make_pictures(tmp_path_factory.mktemp("pictures"))
    (folder / "picture-00.txt").write_text("a zorp on grass\n")
    return folder


@pytest.fixture
def job(tmp_path: Path, base_model: Path, pictures: Path) -> AJob:
    """A small valid job on local files."""
    return a_job(tmp_path, base=base_model, dataset=pictures)


@pytest.fixture(scope="session")
def finished(
    tmp_path_factory: TempPathFactory, base_model: Path, pictures: Path
) -> tuple[AJob, Result]:
    """One undisturbed run, shared by all tests that only look at its result."""
    before = dict(os.environ)
    folder = tmp_path_factory.mktemp("finished")
    job = a_job(folder, base=base_model, dataset=pictures).with_steps(24)
    try:
        code, result = job.run()
    finally:
        os.environ.clear()
        os.environ.update(before)
    assert code == 0, result
    return job, result


@pytest.fixture(scope="session")
def s3(tmp_path_factory: TempPathFactory, base_model: Path, pictures: Path) -> Iterator[S3Server]:
    """A real S3 server that holds the base model and the pictures."""
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        server.upload(base_model, "bases", "tiny")
        server.upload(pictures, "datasets", "zorp")
        yield server
