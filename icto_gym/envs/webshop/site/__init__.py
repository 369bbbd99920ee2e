"""The shop as a web site: the pages of the text environment, in a frame that a person enjoys."""

from icto_gym.envs.webshop.site.serve import ServeConfig, serve

__all__ = ["ServeConfig", "serve"]
