"""A family of teachers of your own: UniSpeech (arXiv 2101.07597), which is in transformers but not in gdist.

gdist extract --use own_teacher.py:UniSpeechTeacher --teacher microsoft/unispeech-large-1500h-cv \\
              --manifest libri.parquet --cache CACHE

gdist reads the checkpoint's config.json, and its ``model_type`` (unispeech) is the family's name.
"""

from transformers import UniSpeechModel

from gdist.stages.teachers.base import Teacher


class UniSpeechTeacher(Teacher):
    """gdist's front-end with the checkpoint's weights, then Hugging Face's own layers, one by one.

    A family whose layers share something for a batch, such as WavLM's position bias, computes it in ``prepare`` and
    runs a layer in ``run_layer``: see ``gdist.stages.teachers.wavlm``.
    """

    model_class = UniSpeechModel
