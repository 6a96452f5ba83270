"""Draw images for people: sheets, films, and a page that shows them as they come."""
