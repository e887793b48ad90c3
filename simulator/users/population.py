"""The population of simulated users: their queries, consent, fatigue and trust.

Sessions start at random; trust decides whether a user asks another question, so a policy with bad answers loses
traffic. Only training queries are asked; those kept for evaluation stay unseen. HTTP is left to
`simulator.users.asking`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from zlib import crc32

import msgspec
import numpy as np

from mechanism.errors import ConfigError, InputError
from mechanism.files import replace_file
from mechanism.types import AdId, Profile
from simulator.clicks import ClickModel
from simulator.fatigue import FatigueSettings, UserState
from simulator.users.reading import Read
from simulator.world import Query, World

_CONSENTS = 10_000


@dataclass(frozen=True, slots=True)
class PopulationSettings:
    """Parameters of a population.

    `consenting`: share of users who consent to the use of profile and query; `day_s`: seconds of a simulated day, the
    unit in which fatigue fades; `fatigue`: parameters of fatigue and trust.
    """

    consenting: float = 0.9
    day_s: float = 600.0
    fatigue: FatigueSettings = field(default_factory=FatigueSettings)

    def __post_init__(self) -> None:
        if not 0 <= self.consenting <= 1:
            raise ConfigError("users.consenting", self.consenting, "give a share from 0 to 1")
        if not self.day_s > 0:
            raise ConfigError("users.day_s", self.day_s, "give more than 0 seconds")


class Population:
    """The users of a world; `seed` determines who asks and what is clicked."""

    def __init__(self, world: World, settings: PopulationSettings, seed: int) -> None:
        self._settings = settings
        self._truth = ClickModel()
        self.rng = np.random.default_rng([seed, 41])
        self._questions: defaultdict[str, list[Query]] = defaultdict(list)
        for query in world.train_queries:
            self._questions[query.profile.id].append(query)
        self._profiles = [profile for profile in world.profiles if profile.id in self._questions]
        self._states: dict[str, UserState] = {}

    def draw_user(self) -> Profile:
        """Draw the user of a new session."""
        return self._profiles[int(self.rng.integers(len(self._profiles)))]

    def draw_query(self, profile: Profile) -> Query:
        """Draw one of the user's queries."""
        own = self._questions[profile.id]
        return own[int(self.rng.integers(len(own)))]

    def consents(self, profile: Profile) -> bool:
        """Return whether the user consents, the same at every query."""
        return crc32(f"consent {profile.id}".encode()) % _CONSENTS < self._settings.consenting * _CONSENTS

    def clicks(self, query: Query, read: Read, auction_id: str, now: float) -> tuple[AdId, ...]:
        """Draw the links that the user follows: the click model's probabilities, scaled by fatigue and trust.

        `now` is in seconds of any monotonic clock.
        """
        state = self._state(query.profile)
        at = max(state.at, self._moment(now))
        causes = self._truth.causes(read.context(auction_id, query), read.answer)
        advertisers = {ad.id: ad.advertiser for ad in read.ads}
        chances = {ad: cause.probability * state.click_factor(ad, at, advertisers[ad]) for ad, cause in causes.items()}
        clicked = tuple(ad for ad, hit in self._truth.click(chances, self.rng).items() if hit)
        relevance = float(np.mean([cause.relevance for cause in causes.values()])) if causes else 1.0
        self._states[query.profile.id] = state.after(read.ads, clicked, relevance, len(read.answer.insertions), at)
        return clicked

    def comes_back(self, profile: Profile) -> bool:
        """Draw whether the user asks again in this session."""
        return bool(self.rng.random() < self._state(profile).return_probability)

    @property
    def questions_a_session(self) -> float:
        """Mean number of queries in a session of a user with initial trust."""
        return 1.0 / (1.0 - UserState(settings=self._settings.fatigue).return_probability)

    @property
    def trust(self) -> float:
        """Mean trust of all users who have asked."""
        known = [state.trust for state in self._states.values()]
        return float(np.mean(known)) if known else UserState(settings=self._settings.fatigue).trust

    def save(self, path: Path) -> None:
        """Write the users' states, replacing the file in one step."""
        replace_file(path, msgspec.json.encode(self._states))

    def load(self, path: Path) -> None:
        """Read the users' states; without a file none has a history.

        Raises:
            InputError: if the file is damaged.
        """
        if path.is_file():
            try:
                states: Mapping[str, UserState] = msgspec.json.decode(path.read_bytes(), type=dict[str, UserState])
            except msgspec.DecodeError as error:
                raise InputError(str(path), str(error), "remove it: users then start without history") from error
            self._states = dict(states)

    def _moment(self, now: float) -> float:
        """Convert to simulated seconds."""
        return now / self._settings.day_s * 86_400.0

    def _state(self, profile: Profile) -> UserState:
        return self._states.get(profile.id) or UserState(settings=self._settings.fatigue)
