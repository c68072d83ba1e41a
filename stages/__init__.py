"""The models, the training and the commands. Stages import pipeline; pipeline never imports stages."""
