"""What ``benchmarks/gpu.py`` does on a device, section by section."""
