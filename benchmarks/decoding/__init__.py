"""JPEG files to pixels: Pillow and the C++ library in turns, and how far embeddings move at reduced scale."""
