"""Measuring speed, memory and operations: of models, of the backbone and of the operator."""
