"""`emola serve`: one opened bundle behind HTTP. It needs the extra `serve`."""
