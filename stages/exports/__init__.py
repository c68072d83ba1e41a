"""The forms a finished student is handed over in.

To add one, write a file with ``write`` (see ``base.py``) and add its row to ``FORMATS``. Modules are named and not
imported: each brings a library of its own, and `gdist export --help` needs none.
"""

FORMATS: dict[str, str] = {
    "hf": "gdist.stages.exports.hf",
    "s3prl": "gdist.stages.exports.s3prl",
}
