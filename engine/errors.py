"""Errors that a caller can act on.

Every error takes only positional arguments, builds its text in ``__str__`` and pickles, since it
may cross process boundaries. Texts name the thing, the caller's parameter and the next step, and
hold no content of a patient's file.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, there: Iterable[str]) -> str:
    """Return a suggestion for an error about a mistyped name, empty if no other name is close.

    Examples
    --------
    >>> did_you_mean("radius_pix", ["radius_px", "polarity"])
    "; did you mean 'radius_px'?"
    """
    close = difflib.get_close_matches(name, list(there), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def install_command(extra: str) -> str:
    """Return the command that installs an extra, for messages.

    Examples
    --------
    >>> install_command("dicom")
    "pip install 'cohort-engine[dicom]' (in a clone of the repository: pip install '.[dicom]')"
    """
    clone = f"(in a clone of the repository: pip install '.[{extra}]')"
    return f"pip install 'cohort-engine[{extra}]' {clone}"


class EngineError(Exception):
    """Base of all errors of the engine. ``exit_code`` is the command line's exit status."""

    exit_code = 1


class UsageError(EngineError, ValueError):
    """Invalid request by the caller (command line: exit code 2)."""

    exit_code = 2


class ParameterError(UsageError):
    """Invalid value of a parameter: (parameter, value, expectation)."""

    def __str__(self) -> str:
        parameter, value, expected = self.args
        return f"{parameter} is {value!r}, but must be {expected}."


class TilingError(UsageError):
    """Impossible tiling of a plane: (problem,)."""

    def __str__(self) -> str:
        return f"Can't tile: {self.args[0]}."


class AlignmentError(UsageError):
    """Work not aligned with shards: (block, shard), so two tasks would own one shard."""

    def __str__(self) -> str:
        block, shard = self.args
        return (
            f"Block {block} does not follow the shards of {shard}; two tasks would write one "
            "shard. Use blocks that are whole multiples of the shard."
        )


class NoCohort(EngineError, FileNotFoundError):
    """No cohort exists at a path or URL: (url,)."""

    exit_code = 2

    def __str__(self) -> str:
        return (
            f"No cohort at {self.args[0]}: no cohort.json is there. Check the path; a new cohort "
            "is made, in a folder of its own, by: cohort ingest COHORT SOURCE"
        )


class FormatTooNew(EngineError):
    """Cohort written by a later version of the engine: (url, found, known)."""

    def __str__(self) -> str:
        url, found, known = self.args
        return (
            f"The cohort at {url} has format {found}; this engine knows formats up to {known}. "
            "Upgrade the engine: pip install --upgrade cohort-engine (in a clone of the "
            "repository: git pull, then pip install .)"
        )


class ConfigError(UsageError):
    """Invalid cohort.toml: (entry, problem)."""

    def __str__(self) -> str:
        where, problem = self.args
        return f"{where}: {problem}"


class NoSource(UsageError, FileNotFoundError):
    """Source that does not exist: (path,)."""

    def __str__(self) -> str:
        return f"No file or folder at {self.args[0]}. Check the path."


class NothingFound(UsageError):
    """Empty selection or folder: (subject, hint)."""

    def __str__(self) -> str:
        what, hint = self.args
        return f"{what}. {hint}"


class SourceUnreadable(EngineError, ValueError):
    """Source file that can't become images: (reason code, detail free of file contents)."""

    @property
    def reason(self) -> str:
        """Reason code, one of `engine.sources.REASONS`."""
        return str(self.args[0])

    def __str__(self) -> str:
        reason, detail = self.args
        return f"{reason}: {detail}"


class MissingExtra(EngineError, ImportError):
    """Missing package that an extra installs: (package, extra, purpose)."""

    def __str__(self) -> str:
        package, extra, purpose = self.args
        return (
            f"{package} is needed {purpose}, and is not installed. Install it with: "
            f"{install_command(extra)}"
        )


class CorruptStore(EngineError, ValueError):
    """Stored data differ from the ledger: (path, problem)."""

    def __str__(self) -> str:
        path, problem = self.args
        return f"{path}: {problem}. See: cohort verify"


class AlreadyExists(EngineError):
    """Write-once object that already exists: (path,)."""

    def __str__(self) -> str:
        return f"{self.args[0]} exists already and is never written twice."


class MissingObject(EngineError, FileNotFoundError):
    """Missing object of the store: (path,)."""

    def __str__(self) -> str:
        return f"{self.args[0]} is missing. See: cohort verify"


class StoreError(EngineError, OSError):
    """Unusable store of the cohort. It is not about an image, so it leaves no row."""


class StoreFull(StoreError):
    """Store without free space: (path, whether a quota is the limit)."""

    def __str__(self) -> str:
        what = "The quota is used up" if len(self.args) > 1 and self.args[1] else "No space left"
        return (
            f"{what} at {self.args[0]}. Make room (cohort gc removes leftovers) and run the "
            "same command again: what is committed stays."
        )


class StoreFailed(StoreError):
    """Failure of the file system: (path, its error)."""

    def __str__(self) -> str:
        path, problem = self.args
        return (
            f"Reading or writing failed at {path} ({problem}). Check the disk and its mount (the "
            "system's log says more), then run the same command again: what is committed stays."
        )


class TooManyFiles(StoreError):
    """Limit of open files reached: (path, the limit of this process)."""

    def __str__(self) -> str:
        path, limit = self.args
        return (
            f"Too many open files: {path} needs more than the {limit} that a process may open "
            "here. Raise the limit (ulimit -n 4096) and run the same command again: what is "
            "committed stays."
        )


class StoreReadOnly(StoreError, PermissionError):
    """Cohort that is not writable: (path,)."""

    def __str__(self) -> str:
        return f"No permission to write at {self.args[0]}. Check its owner, mode and mount."


class NoConditionalPuts(StoreError):
    """Object store without conditional puts: (url, the condition that it ignores)."""

    def __str__(self) -> str:
        url, condition = self.args
        return (
            f"The store at {url} ignores conditional puts ({condition}), so writers at the same "
            "moment would lose each other's work. Use a store that honours If-None-Match and "
            "If-Match (S3, GCS, Azure, MinIO and Ceph do in their present versions) or a folder."
        )


class StoreUnreachable(StoreError, ConnectionError):
    """Object store that can't be used: (url, problem)."""

    def __str__(self) -> str:
        url, problem = self.args
        return (
            f"Can't use the store at {url} ({problem}). Check the URL, the network, the endpoint "
            "(AWS_ENDPOINT_URL) and the credentials."
        )


class Conflict(EngineError):
    """Compare-and-swap lost too often: (subject,)."""

    def __str__(self) -> str:
        return f"Another writer kept changing {self.args[0]}. Run the same command again."


class SchedulerLost(EngineError, ConnectionError):
    """Lost connection to the Dask scheduler: (done, left), counts of units; () at the start."""

    def __str__(self) -> str:
        if self.args:
            lost = f"{self.args[0]} units were done, {self.args[1]} are left"
        else:
            lost = "it answered, and does not any more"
        return (
            f"The scheduler was lost: {lost}. What is committed stays; run the same command again "
            "to go on."
        )


class NoWorkers(EngineError):
    """No worker available: (waited seconds,)."""

    def __str__(self) -> str:
        return (
            f"No Dask worker appeared within {self.args[0]:.0f} s. Start workers for this "
            "scheduler, or leave out --scheduler to use this machine."
        )


class NoWorkerForResource(EngineError):
    """No worker with the resource that the operation needs: (resource, amount, workers seen)."""

    def __str__(self) -> str:
        resource, amount, workers = self.args
        return (
            f"None of the {workers} workers offers {amount:g} of the resource {resource!r}. Start "
            f'one with: dask worker SCHEDULER --resources "{resource}={amount:g}"'
        )


class MissingPackage(EngineError, ImportError):
    """Scheduler or worker that lacks a module of an operation: (module,)."""

    def __str__(self) -> str:
        return (
            f"The scheduler or a worker can't import {self.args[0]}, which the operation needs. "
            "Install the same packages there as here, the operation's own among them, and start "
            "them again; no image was failed for it."
        )


class ColumnsChanged(UsageError):
    """Operation with other columns than its stored results: (ledger, columns there, columns)."""

    def __str__(self) -> str:
        ledger, there, now = self.args
        return (
            f"{ledger} holds objects with the columns {there}; the operation now has {now}. Other "
            "columns are another version: raise it by 1."
        )


class WorkerUnfit(EngineError):
    """Worker that lacks a requirement of the operation, such as a model's files: (problem,).

    It is not about an image, so it leaves no row and ends the run.
    """

    def __str__(self) -> str:
        return (
            f"A worker can't do this: {self.args[0]} Workers need the same files and packages as "
            "the machine that the run was started on."
        )


class NoTable(EngineError, FileNotFoundError):
    """Table that does not exist: (name, existing names)."""

    exit_code = 2

    def __str__(self) -> str:
        name, there = self.args
        listed = ", ".join(there) if there else "none yet; make them with: cohort run COHORT"
        return f"No table {name!r}. Tables of this cohort: {listed}."


class Interrupted(EngineError):
    """Run ended early by Ctrl-C: (units done, units left)."""

    exit_code = 130

    def __str__(self) -> str:
        done, left = self.args
        return (
            f"Stopped: {done} units are done and committed, {left} are left. Run it again to go on."
        )
