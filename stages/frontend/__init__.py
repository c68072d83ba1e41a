"""Front-ends, shared by teachers and students: waveform → the input of the first Transformer layer."""
