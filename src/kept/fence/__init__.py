"""A child process for work on untrusted files, with bounded time and memory and without network or write access."""

from kept.fence.limits import Limits
from kept.fence.worker import FenceError, Reply, Worker

__all__ = ["FenceError", "Limits", "Reply", "Worker"]
