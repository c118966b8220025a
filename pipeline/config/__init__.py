"""What the YAML files may say. Each module has the schema of one kind of file."""
