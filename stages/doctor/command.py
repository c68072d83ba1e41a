"""`gdist doctor` on the command line."""

import click

from gdist.stages.commandline import command, json_option


@command("doctor", short_help="Whether this machine can do the work.")
@click.argument("uris", metavar="[URI]...", nargs=-1)
@click.option(
    "--local",
    metavar="DIR",
    envvar="GDIST_LOCAL",
    help="The folder in which shards of buckets will be kept; its disk is checked too. [env: GDIST_LOCAL]",
)
@click.option("--read-only", is_flag=True, help="Write nothing: of the places, try only to list and to read.")
@click.option(
    "--in-parts",
    is_flag=True,
    help="Try an upload in parts too, which gdist never does. If it is killed, its parts stay, unseen and paid for.",
)
@json_option
def doctor_command(uris: tuple[str, ...], local: str | None, read_only: bool, in_parts: bool, as_json: bool) -> int:
    """Check this machine: the packages, the GPUs, the processor and its memory, the disks, and each URI.

    Of a bucket, each permission that gdist needs is tried on small objects with a new random name below the URI,
    which are deleted afterwards, with the time that it takes. Of a folder, its disk is measured with a file of 64 MB.
    Without a URI, the current folder is checked, and nothing uses the network. Keys are used and never shown.

    The exit code is 1 if there is a problem at which work would stop. What is only worth knowing is a note.

    \b
    Example:  gdist doctor
              gdist doctor s3://bucket/experiments /nvme
              gdist doctor s3://bucket/libri --read-only --json
    """
    from gdist.stages.doctor import examine

    return examine.doctor_command(uris, local, read_only, in_parts, as_json)
