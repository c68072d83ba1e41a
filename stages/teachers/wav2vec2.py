"""wav2vec 2.0 and XLS-R (arXiv 2006.11477, 2111.09296)."""

from transformers import Wav2Vec2Model

from gdist.stages.teachers.base import Teacher


class Wav2Vec2Teacher(Teacher):
    """Hugging Face's own layers."""

    model_class = Wav2Vec2Model
