"""Saved Core ML programs, read and executed on any system: what ships is verified without Apple's runtime."""

from runtime.mil.package import Package

__all__ = ["Package"]
