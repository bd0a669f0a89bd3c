"""A generated data set: coloured shapes on textured ground."""
