"""The job ``persona``: traits, and the judges that score answers for them."""
