"""Training: a recipe becomes a steering vector or a finetuned counterpart, built once, cached."""
