"""HuBERT, Base and Large (arXiv 2106.07447)."""

from transformers import HubertModel

from gdist.stages.teachers.base import Teacher


class HubertTeacher(Teacher):
    """Hugging Face's own layers; batch-normed positional convolutions are folded into the front-end."""

    model_class = HubertModel
