"""What libraries log, and the tracebacks of what nobody catches: they do nothing to a terminal either, and give no
credentials away."""

import logging
import sys
import threading
import traceback
from types import TracebackType
from typing import Any

from gdist.pipeline.printing import harmless


def make_warnings_harmless() -> None:
    """Make what libraries tell Python's logging :func:`harmless`, tracebacks too, whatever handlers they have: a
    client of HTTP names the proxy, with its password."""
    if logging.getLogRecordFactory() is logging.LogRecord:  # and nobody else's
        logging.setLogRecordFactory(_Harmless)


class _Harmless(logging.LogRecord):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.exc_info and self.exc_info[0] is not None:
            self.exc_text = harmless("".join(traceback.format_exception(*self.exc_info)).rstrip())

    def getMessage(self) -> str:  # noqa: N802  logging's own name
        return harmless(super().getMessage())


def make_tracebacks_harmless() -> None:
    """Print the tracebacks of what nobody catches, in this thread and others, as :func:`harmless` has them."""

    def show(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
        sys.stderr.write(harmless("".join(traceback.format_exception(kind, error, trace))))

    sys.excepthook = show
    threading.excepthook = lambda failed: show(failed.exc_type, failed.exc_value, failed.exc_traceback)
