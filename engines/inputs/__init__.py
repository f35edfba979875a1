"""What callers pass: images become pixels, texts become token ids, equal to open_clip's."""
