"""The wav2vec 2.0 front-end, shared by teachers and students."""
