"""The process that runs: its cores, its forks, the optional libraries that it can import, and its terminal."""
