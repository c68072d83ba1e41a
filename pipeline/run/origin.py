"""Where a run comes from: its resolved config, config.toml, and what else run.json says."""

from typing import Any

from gdist.pipeline.config import TomlTables, read_toml
from gdist.pipeline.errors import ConfigError, RunError
from gdist.pipeline.folder import OwnFolder
from gdist.pipeline.run.documents import read_document
from gdist.pipeline.run.schema import About, Provenance, Resolved
from gdist.pipeline.run.whole import require_config
from gdist.pipeline.schema import SchemaError, conform
from gdist.pipeline.storage.locations import in_shell


class Origin(OwnFolder):
    """A run's folder, as far as its config and its provenance go."""

    def tables(self) -> TomlTables:
        """Read the resolved config.

        Raises:
            RunError: it is missing or damaged.
        """
        path = self.own(self.folder / "config.toml")
        hint = "the `gdist train` that the run was begun with, once more, writes it anew"
        try:
            tables = read_toml(path)
        except ConfigError as error:
            raise RunError(error.message, hint) from error
        try:
            conform(tables, Resolved)
        except SchemaError as error:
            raise RunError(f"{path} is damaged: {error}", hint) from error
        require_config(tables, self.known(), path, hint)
        return tables

    def known(self) -> dict[str, Any]:
        """What run.json says, whatever of it there is; nothing where it cannot be read: who needs it says so."""
        try:
            return self.provenance(About)
        except RunError:
            return {}

    def provenance(self, schema: type = Provenance) -> dict[str, Any]:
        """Read what :meth:`begin` recorded.

        Args:
            schema: what it must have; :class:`~gdist.pipeline.run.schema.About` for whatever there is.

        Raises:
            RunError: it is missing or damaged.
        """
        return read_document(self.own(self.folder / "run.json"), schema, self.anew)

    @property
    def anew(self) -> str:
        """What to type where run.json is damaged."""
        path = in_shell(self.folder / "run.json")
        return f"rm -f {path}; then the `gdist train` of this run writes it anew, from its cache as it is"
