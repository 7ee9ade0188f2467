"""Hidden states: run decoder layers, steer one of them, cache results by row."""
