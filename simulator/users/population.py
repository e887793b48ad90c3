"""Who asks, what, and what they carry from one answer to the next: consent, fatigue and trust by user.

Sessions begin at random; whether a user comes back for another question is their trust's decision, so a policy that
serves badly loses its traffic. Only questions that train are asked: those kept for evaluation stay unseen. HTTP is
`simulator.users.asking`'s.
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
    """`consenting` is the share of users who let their profile and question be used. A simulated day, by which fatigue
    fades, passes in `day_s` seconds. `fatigue` are the parameters of fatigue and trust."""

    consenting: float = 0.9
    day_s: float = 600.0
    fatigue: FatigueSettings = field(default_factory=FatigueSettings)

    def __post_init__(self) -> None:
        if not 0 <= self.consenting <= 1:
            raise ConfigError("users.consenting", self.consenting, "give a share from 0 to 1")
        if not self.day_s > 0:
            raise ConfigError("users.day_s", self.day_s, "give more than 0 seconds")


class Population:
    """The users of a world. `seed` decides who comes and what they click."""

    def __init__(self, world: World, settings: PopulationSettings, seed: int) -> None:
        self._settings = settings
        self._truth = ClickModel()
        self.rng = np.random.default_rng([seed, 41])
        self._questions: defaultdict[str, list[Query]] = defaultdict(list)
        for query in world.train_queries:
            self._questions[query.profile.id].append(query)
        self._profiles = [profile for profile in world.profiles if profile.id in self._questions]
        self._states: dict[str, UserState] = {}

    def arrives(self) -> Profile:
        """Somebody who begins a session."""
        return self._profiles[int(self.rng.integers(len(self._profiles)))]

    def asks(self, profile: Profile) -> Query:
        """A question of theirs."""
        own = self._questions[profile.id]
        return own[int(self.rng.integers(len(own)))]

    def consents(self, profile: Profile) -> bool:
        """Whether they consented: a person does or does not, whenever they ask."""
        return crc32(f"consent {profile.id}".encode()) % _CONSENTS < self._settings.consenting * _CONSENTS

    def clicks(self, query: Query, read: Read, auction_id: str, now: float) -> tuple[AdId, ...]:
        """The links that they follow (`now` in seconds of any clock that runs on): truth of the click model, by
        fatigue and trust of the person."""
        state = self._state(query.profile)
        at = max(state.at, self._moment(now))
        causes = self._truth.causes(read.context(auction_id, query.text, query.profile), read.answer)
        advertisers = {ad.id: ad.advertiser for ad in read.ads}
        chances = {ad: cause.probability * state.click_factor(ad, at, advertisers[ad]) for ad, cause in causes.items()}
        clicked = tuple(ad for ad, hit in self._truth.click(chances, self.rng).items() if hit)
        relevance = float(np.mean([cause.relevance for cause in causes.values()])) if causes else 1.0
        self._states[query.profile.id] = state.after(read.ads, clicked, relevance, len(read.answer.insertions), at)
        return clicked

    def comes_back(self, profile: Profile) -> bool:
        """Whether they ask again in this session."""
        return bool(self.rng.random() < self._state(profile).return_probability)

    @property
    def questions_a_session(self) -> float:
        """How many a new user asks in the mean, while their trust is as at the start."""
        return 1.0 / (1.0 - UserState(settings=self._settings.fatigue).return_probability)

    @property
    def trust(self) -> float:
        """The mean trust of all who have asked."""
        known = [state.trust for state in self._states.values()]
        return float(np.mean(known)) if known else UserState(settings=self._settings.fatigue).trust

    def save(self, path: Path) -> None:
        """Writes what users carry, in one step."""
        replace_file(path, msgspec.json.encode(self._states))

    def load(self, path: Path) -> None:
        """Reads it back; nothing where there is no file. Raises InputError for a damaged one."""
        if path.is_file():
            try:
                states: Mapping[str, UserState] = msgspec.json.decode(path.read_bytes(), type=dict[str, UserState])
            except msgspec.DecodeError as error:
                raise InputError(str(path), str(error), "remove it: users then begin anew") from error
            self._states = dict(states)

    def _moment(self, now: float) -> float:
        """Simulated seconds."""
        return now / self._settings.day_s * 86_400.0

    def _state(self, profile: Profile) -> UserState:
        return self._states.get(profile.id) or UserState(settings=self._settings.fatigue)
