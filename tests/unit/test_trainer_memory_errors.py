"""What a GPU's libraries say when memory runs out is recognised, whichever of them says it."""

import pytest

from lora_trainer.errors import is_out_of_memory

_NCCL = (
    "NCCL error in: ../torch/csrc/distributed/c10d/ProcessGroupNCCL.cpp:3690, unhandled cuda error "
    "(run with NCCL_DEBUG=INFO for details), NCCL version 2.27.5\nncclUnhandledCudaError: Call to "
    "CUDA function failed.\nLast error:\n"
)

SAID: dict[str, tuple[str, bool]] = {
    "torch's allocator": ("CUDA out of memory. Tried to allocate 2.00 GiB", True),
    "the driver": ("CUDA error: out of memory", True),
    "cuBLAS": ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", True),
    "cuDNN": ("cuDNN error: CUDNN_STATUS_ALLOC_FAILED", True),
    "NCCL, from CUDA": (f"{_NCCL}Cuda failure 2 'out of memory'", True),
    "NCCL, from CUDA, older": (f"{_NCCL}Cuda failure 'out of memory'", True),
    "NCCL's own allocation": (f"{_NCCL}Failed to CUDA calloc async 608 bytes", True),
    "NCCL's host memory": (f"{_NCCL}Failed to CUDA host alloc 4096 bytes", True),
    "another fault of NCCL": (f"{_NCCL}Cuda failure 1 'invalid argument'", False),
    "another fault of cuBLAS": ("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED", False),
}


@pytest.mark.parametrize("name", SAID)
def test_out_of_memory_is_told_apart(name: str) -> None:
    said, expected = SAID[name]
    assert is_out_of_memory(RuntimeError(said)) is expected
