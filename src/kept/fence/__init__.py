"""A child process that works on untrusted files: bounded time and memory, no network, no file written."""

from kept.fence.limits import Limits
from kept.fence.worker import FenceError, Reply, Worker

__all__ = ["FenceError", "Limits", "Reply", "Worker"]
