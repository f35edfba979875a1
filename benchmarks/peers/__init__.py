"""This project's engines against other libraries that serve CLIP, each in a process and environment of its own."""
