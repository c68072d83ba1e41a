"""UniSpeech-SAT, Base and Large (arXiv 2110.05752)."""

from transformers import UniSpeechSatModel

from gdist.stages.teachers.base import Teacher


class UniSpeechSatTeacher(Teacher):
    """Hugging Face's own layers."""

    model_class = UniSpeechSatModel
