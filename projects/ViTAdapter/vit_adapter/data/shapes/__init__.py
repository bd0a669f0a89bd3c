"""The data set that generates itself: coloured shapes on textured ground."""
