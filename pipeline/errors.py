"""Every exception gdist raises on purpose, and the exit code each one becomes.

    GdistError                  1   a known failure; says what was attempted, why it cannot work, what to type next
    ├── UsageError              2   what the user typed or configured cannot work (also a ValueError)
    │   ├── ConfigError         2   unknown key, wrong type, value out of range
    │   └── ManifestError       2   a manifest that cannot be read or lacks a column
    ├── AudioError              1   one utterance cannot be used; has a short reason for the quarantine
    ├── TeacherError            1   a checkpoint that cannot be loaded or is not a supported family
    ├── CacheError              1   a cache that cannot be opened, created or written
    │   ├── CacheMismatchError  1   the cache was made from other inputs; lists the differences
    │   ├── CacheLockedError    1   another extraction is writing to it
    │   └── CacheDamagedError   1   bytes do not match their receipts
    ├── ClusterError            1   workers or a scheduler that are unavailable, unsuitable, or were lost
    ├── RunError                1   a training run's directory that cannot be used
    ├── DeviceMemoryError   1   the memory of a GPU, or of the machine, does not suffice
    ├── ExportError             1   an export whose output differs from its student's
    └── StoppedError          130   asked to stop (Ctrl-C); what was finished is kept

Anything else that escapes is a bug in gdist and is shown with its traceback.
"""

AGAIN = "run the same command again"  # a hint that ends like this is completed with what the command keeps

EXIT_OK, EXIT_FAILURE, EXIT_USAGE, EXIT_QUARANTINED, EXIT_INTERRUPTED = 0, 1, 2, 3, 130


class GdistError(Exception):
    """A failure that gdist can explain.

    Args:
        message: what was attempted and why it cannot work.
        hint: what to do or type next; printed on a separate line.
    """

    exit_code = EXIT_FAILURE

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message


class UsageError(GdistError, ValueError):
    """What the user typed or configured cannot work."""

    exit_code = EXIT_USAGE


class ConfigError(UsageError):
    """An unknown key, a wrong type, or a value out of range."""


class ManifestError(UsageError):
    """A manifest that cannot be read, or lacks what it needs."""


class AudioError(GdistError):
    """One utterance cannot be used. Extraction turns this into a quarantine entry and continues."""


class TeacherError(GdistError):
    """A checkpoint that cannot be loaded, or belongs to no supported family."""


class CacheError(GdistError):
    """A cache that cannot be opened, created or written."""


class CacheMismatchError(CacheError):
    """The cache was made from other inputs than the ones given now."""


class CacheLockedError(CacheError):
    """Another extraction is writing to the cache."""


class CacheDamagedError(CacheError):
    """Stored bytes do not match their receipts."""


class ClusterError(GdistError):
    """Workers or a scheduler that do not answer, do not fit, or were lost."""


class RunError(GdistError):
    """A training run's directory that cannot be used as asked."""


class DeviceMemoryError(GdistError):
    """The memory of a device does not suffice for what was attempted; what was finished is kept."""


class ExportError(GdistError):
    """The exported model's output differs from the student's."""


class StoppedError(GdistError):
    """Work was asked to stop, and stopped."""

    exit_code = EXIT_INTERRUPTED
