"""A family of teachers of your own: UniSpeech-SAT (arXiv 2110.05752), which is in transformers but not in gdist.

gdist extract --use own_teacher.py:UniSpeechSatTeacher --teacher microsoft/unispeech-sat-base-plus \\
              --manifest libri.parquet --cache CACHE

gdist reads the checkpoint's config.json, and its ``model_type`` (unispeech-sat) is the family's name.
"""

from transformers import UniSpeechSatModel

from gdist.stages.teachers.base import Teacher


class UniSpeechSatTeacher(Teacher):
    """gdist's front-end with the checkpoint's weights, then Hugging Face's own layers, one by one.

    A family whose layers share something for a batch, such as WavLM's position bias, computes it in ``prepare`` and
    runs a layer in ``run_layer``: see ``gdist.stages.teachers.wavlm``.
    """

    model_class = UniSpeechSatModel
