"""A dump made ready: source, recipe, teacher and codec opened, checked and fitted; nothing is
written yet."""
