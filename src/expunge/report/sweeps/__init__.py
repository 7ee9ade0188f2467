"""Page and plots of a sweep."""
