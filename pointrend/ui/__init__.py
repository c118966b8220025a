"""``pointrend ui``: a local page that shows what PointRend does to a mask, step by step."""
