"""Conversion of callers' inputs: images become pixels and texts become token ids, equal to open_clip's."""
