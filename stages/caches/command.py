"""`gdist caches` on the command line."""

import click

from gdist.stages.commandline import command, json_option


@command("caches", short_help="The caches in a folder or a bucket.")
@click.argument("uri")
@click.option("--depth", type=click.IntRange(0), default=6, show_default=True, help="Levels of folders to look at.")
@click.option(
    "--folders", type=click.IntRange(1), default=5000, show_default=True, help="Folders to look at, at most."
)
@json_option
def caches_command(uri: str, depth: int, folders: int, as_json: bool) -> int:
    """List the caches at and below URI: teacher, hours, layers, encoding, size, and whether they are finished.

    The nearest levels come first. Folders are not listed with everything below them, and those of caches are not
    entered, so this takes seconds in a bucket of millions of objects. What was not looked at is reported.

    \b
    Example:  gdist caches s3://bucket/experiments
    """
    from gdist.stages.caches import listing

    return listing.caches_command(uri, depth, folders, as_json)
