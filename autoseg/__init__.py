"""autoseg: medical image segmentation that configures itself."""

from importlib.metadata import version

__version__ = version("autoseg")
