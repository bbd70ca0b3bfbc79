"""Free memory of a device in bytes, detection of out-of-memory errors, and how to need less."""

import psutil
import torch


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a device."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    return psutil.virtual_memory().available


def free_cached_memory() -> None:
    """Free what an accelerator's allocator caches; the CPU's allocator caches nothing."""
    if torch.accelerator.is_available():
        torch.accelerator.memory.empty_cache()


def is_out_of_memory(error: Exception) -> bool:
    """Whether a pass ran out of memory."""
    # The allocator of the CPU raises a RuntimeError.
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def last_columns(tokens: torch.Tensor, count: int) -> int | torch.Tensor:
    """The last columns of tokens [rows, columns], as a model's `logits_to_keep`.

    Indices, since of a number of columns the model takes a slice of its hidden states. That is not
    contiguous, and PyTorch then copies the head's matrix once a row on CPUs in bfloat16: gigabytes,
    and hundreds of times the time.
    """
    columns = tokens.shape[1]
    if count == columns:
        return count
    return torch.arange(columns - count, columns, device=tokens.device)
