"""Looking at what is kept, and pruning it. One module a page or an idea; visible.py says who sees what."""
