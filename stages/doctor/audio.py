"""Which audio can be read."""

from collections.abc import Iterator

from gdist.stages.doctor.check import Check, note, ok, problem

NEEDED = ("WAV", "FLAC", "OGG", "MP3")


def check_audio() -> Iterator[Check]:
    """libsndfile and what it reads; one of the recordings that gdist brings is decoded."""
    try:
        import soundfile
    except (ImportError, OSError):
        return  # the packages say so
    from gdist.data_manifests import demo_folder

    name, version = "libsndfile", str(soundfile.__libsndfile_version__)
    formats = soundfile.available_formats()
    try:
        samples, rate = soundfile.read(demo_folder() / "audio" / "prompts-en.flac")
    except (soundfile.SoundFileError, OSError) as error:
        means = f"a FLAC file that gdist brings cannot be decoded: {error}"
        yield problem("audio", name, version, means, "pip install --force-reinstall soundfile gdist")
        return
    read = [kind for kind in NEEDED if kind in formats]
    value = (
        f"{version}, reads {', '.join(read)} and {len(formats) - len(read)} more; {len(samples) / rate:.1f} s decoded"
    )
    if lacking := [kind for kind in NEEDED if kind not in formats]:
        means = f"it does not read {', '.join(lacking)}: such files would be quarantined"
        yield note("audio", name, value, means, "pip install --force-reinstall soundfile, which brings a newer one")
    else:
        yield ok("audio", name, value)
