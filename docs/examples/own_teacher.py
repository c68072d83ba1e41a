"""A family of teachers of one's own: UniSpeech-SAT (arXiv 2110.05752), which transformers has and gdist has not.

gdist extract --use own_teacher.py:UniSpeechSatTeacher --teacher microsoft/unispeech-sat-base-plus \\
              --manifest libri.parquet --cache CACHE

gdist reads the checkpoint's config.json, and its ``model_type`` (unispeech-sat) is the family's name.
"""

from transformers import UniSpeechSatModel

from gdist.stages.teachers.base import Teacher


class UniSpeechSatTeacher(Teacher):
    """Hugging Face's own layers, one by one; gdist's front-end, with the checkpoint's weights, before them.

    A family whose layers share something for a batch, such as WavLM's position bias, says so in ``prepare``, and runs
    a layer in ``run_layer``: see ``gdist.stages.teachers.wavlm``.
    """

    model_class = UniSpeechSatModel
