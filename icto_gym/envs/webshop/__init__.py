"""WebShop: search, compare and buy the product that an instruction asks for."""

from icto_gym.envs.webshop.env import WebShopEnv
from icto_gym.envs.webshop.reward import PurchaseReward, purchase_reward

__all__ = ["PurchaseReward", "WebShopEnv", "purchase_reward"]
