"""`pointrend check`: three updates, a checkpoint, a resume and two evaluated images of every distinct training."""
