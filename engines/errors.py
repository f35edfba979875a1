"""Exceptions of the serving package: each message names the problem and its remedy in one sentence."""

from __future__ import annotations


class EngineError(Exception):
    """Base of all errors that a user of :mod:`engines` can mend; the command line prints the message and exits with 1."""


class BundleError(EngineError):
    """The folder is not a usable bundle: a file is missing, edited, truncated, or lies outside the folder."""


class SchemaVersionError(BundleError):
    """The manifest was written by a newer release than this one."""


class HubError(EngineError):
    """The Hugging Face hub does not give or take a bundle: no network, no such repository, no access, or no client library."""


class EngineUnavailableError(EngineError):
    """The bundle has no engine that can run here (library missing, other GPU, other library version)."""


class InputError(EngineError, ValueError):
    """An argument has the wrong shape, dtype or range (empty batch, token id outside the vocabulary, …)."""


class ImageError(InputError):
    """An image could not be read: not an image, truncated, empty, or larger than the pixel limit."""
