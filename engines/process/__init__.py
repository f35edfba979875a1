"""The process that serves: its cores, its forks, and the optional libraries that it can import."""
