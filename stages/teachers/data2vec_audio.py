"""data2vec for audio (arXiv 2202.03555)."""

from transformers import Data2VecAudioModel

from gdist.stages.teachers.base import Teacher


class Data2VecAudioTeacher(Teacher):
    """Hugging Face's own layers; the front-end has five positional convolutions instead of one."""

    model_class = Data2VecAudioModel
