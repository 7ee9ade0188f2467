"""The viewer: a local web page over a folder of runs, served by `expunge view`."""
