"""What a network is made of: the trace of a forward pass, receptive field, constraint checks."""
