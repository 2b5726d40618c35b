"""What two or more ArtCafe PubSub services share, and nothing else."""

__version__ = "0.1.0"
