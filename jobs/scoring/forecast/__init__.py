"""What a sweep will take, told before it runs: ``steersweep plan``."""
