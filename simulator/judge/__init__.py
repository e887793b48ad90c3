"""The judge: a user model behind any OpenAI-compatible chat endpoint that asks queries and gives click feedback."""

from simulator.judge.cache import ReplyCache
from simulator.judge.client import ChatClient, EndpointSettings
from simulator.judge.cost import CostMeter, Prices, Usage
from simulator.judge.schemas import AdClick, ClickFeedback, GeneratedQueries
from simulator.judge.user_model import UserModel

__all__ = [
    "AdClick",
    "ChatClient",
    "ClickFeedback",
    "CostMeter",
    "EndpointSettings",
    "GeneratedQueries",
    "Prices",
    "ReplyCache",
    "Usage",
    "UserModel",
]
