"""What a command is doing, for other programs: JSON lines instead of words, and numbers for Prometheus.

    gdist --log-json …           every line on stderr is one JSON object: time, level, message, and what it is made of
    gdist --metrics :9100 …      http://HOST:9100/metrics, for as long as the command runs

Nothing that gdist computes depends on either. A command's own processes (of a sweep, of Dask) are not asked: what the
command shows of them is in its own lines and numbers. Of several ranks of torchrun, the first one tells.
"""

import contextlib
import json
import logging
import os
import re
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from gdist.pipeline import console
from gdist.pipeline.errors import UsageError
from gdist.pipeline.printing import all_without_credentials

_ADDRESS = re.compile(r"(?:(?P<host>[\w.-]*|\[[0-9a-f:]+\]):)?(?P<port>\d{1,5})", re.IGNORECASE)
_measures: "_Measures | None" = None


@contextlib.contextmanager
def json_lines() -> Iterator[None]:
    """Write what is said to people as JSON objects, one a line, to stderr, for the length of a ``with``."""

    def line(level: str, message: str, **fields: Any) -> None:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        known = {name: value for name, value in fields.items() if value is not None}
        said = {"time": now, "level": level, "message": message.strip(), **known}
        sys.stderr.write(json.dumps(all_without_credentials(said)) + "\n")
        sys.stderr.flush()

    lines = _Lines(line)
    before, logging.lastResort = logging.lastResort, lines
    logging.captureWarnings(True)
    logging.getLogger("py.warnings").addHandler(lines)  # which else has one that says nothing
    try:
        with console.logged(line):
            yield
    finally:
        logging.getLogger("py.warnings").removeHandler(lines)
        logging.captureWarnings(False)
        logging.lastResort = before


class _Lines(logging.StreamHandler):  # type: ignore[type-arg]
    """Takes the warnings of other libraries, where nobody has set logging up."""

    def __init__(self, log: console.Log) -> None:
        super().__init__()
        self.setLevel(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        self._log("error" if record.levelno >= logging.ERROR else "warning", record.getMessage(), logger=record.name)


@contextlib.contextmanager
def metrics(address: str) -> Iterator[None]:
    """Serve numbers for Prometheus, for the length of a ``with``.

    Args:
        address: ``PORT`` or ``HOST:PORT``; without a host, of this machine only. ``:PORT`` is every network.

    Raises:
        UsageError: it is no address, the port is not free, or prometheus-client is not installed.
    """
    global _measures
    found = _ADDRESS.fullmatch(address)
    if found is None or not 0 < int(found["port"]) < 65_536:
        raise UsageError(f"--metrics {address}: is no address", "type a port, as in --metrics 9100, or HOST:PORT")
    if os.environ.get("RANK", "0") != "0":
        yield
        return
    try:
        import prometheus_client
    except ImportError as error:
        raise UsageError("--metrics needs prometheus-client", "pip install 'gdist[metrics]'") from error
    host = "127.0.0.1" if found["host"] is None else found["host"].strip("[]") or "0.0.0.0"
    registry = prometheus_client.CollectorRegistry()
    prometheus_client.ProcessCollector(registry=registry)
    try:
        server, thread = prometheus_client.start_http_server(int(found["port"]), host, registry)
    except OSError as error:
        raise UsageError(f"--metrics {address}: {error.strerror or error}", "choose another port") from error
    _measures = _Measures(registry)
    try:
        with console.watched(_measures.progressed):
            yield
    finally:
        _measures = None
        server.shutdown()
        server.server_close()
        thread.join()


def measured(run: str, kind: str, row: Mapping[str, Any]) -> None:
    """Tell what a training reports: the newest value of each number, by the run's name and ``train`` or ``valid``."""
    if _measures is not None:
        for name, value in row.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                _measures.values.labels(run, kind, name).set(value)


class _Measures:
    """The numbers that are served, besides those of the process itself."""

    def __init__(self, registry: Any) -> None:
        from prometheus_client import Gauge

        labels = ("title", "unit")
        self.done = Gauge("gdist_done", "How much of the work is done.", labels, registry=registry)
        self.total = Gauge("gdist_total", "How much work there is.", labels, registry=registry)
        text = "The newest value of what a training reports."
        self.values = Gauge("gdist_training", text, ("run", "kind", "name"), registry=registry)

    def progressed(self, title: str, unit: str, done: float, total: float) -> None:
        """Take over what is known of the progress."""
        self.done.labels(title, unit).set(done)
        self.total.labels(title, unit).set(total)
