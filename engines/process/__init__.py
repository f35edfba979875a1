"""Facts and parts of the running process: its cores, its forks, the optional libraries that it can import, and its terminal."""
