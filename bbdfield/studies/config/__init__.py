"""The configuration of a study: one TOML file, checked to the last key before anything is computed or written.

    kind = "continuum"
    seed = 1

    [lattice]
    depth = [16, 32, 64, 128]       # the ladder; depth or width may be a list
    width = 40
    channels = 8
    radius = "11/80"

    [training]
    steps = 100
    batch = 32
    step = 0.25
    rates = { w = 7.27, b = 0.1, r = 0.5 }

Every other key has a default, and `AnyStudy.to_toml` writes all of them out. Every mistake is reported as one line,
``FILE.toml: lattice.depth: needs a whole number >= 1 (got -3)``, whatever the mistake is.

``values`` are checked one by one, ``sections`` hold them, ``study`` is what every kind has in common, ``one_field``
what studies of one field have; each kind has a file with what it adds; ``combinations`` refuses what cannot work
together, ``reading`` reads files.
"""

from bbdfield.studies.config.conservation import ConservationConfig
from bbdfield.studies.config.continuum import StudyConfig
from bbdfield.studies.config.decomposition import DecompositionConfig
from bbdfield.studies.config.energy import EnergyConfig
from bbdfield.studies.config.faults import FaultsConfig
from bbdfield.studies.config.manifolds import ManifoldsConfig
from bbdfield.studies.config.orders import LadderSection, OrdersConfig
from bbdfield.studies.config.reading import CONFIGS, load_config, model_of, parse_config, parse_table, read_text
from bbdfield.studies.config.regimes import RegimesConfig
from bbdfield.studies.config.sections import TrainingSection
from bbdfield.studies.config.signals import SignalsConfig
from bbdfield.studies.config.study import AnyStudy
from bbdfield.studies.config.symmetry import SymmetryConfig
from bbdfield.studies.config.temperature import TemperatureConfig
from bbdfield.studies.config.toml import toml_key, toml_value
from bbdfield.studies.config.validity import ValidityConfig
from bbdfield.studies.config.values import LATER_KEYS, LATER_VALUES

__all__ = [
    "CONFIGS",
    "LATER_KEYS",
    "LATER_VALUES",
    "AnyStudy",
    "ConservationConfig",
    "DecompositionConfig",
    "EnergyConfig",
    "FaultsConfig",
    "LadderSection",
    "ManifoldsConfig",
    "OrdersConfig",
    "RegimesConfig",
    "SignalsConfig",
    "StudyConfig",
    "SymmetryConfig",
    "TemperatureConfig",
    "TrainingSection",
    "ValidityConfig",
    "load_config",
    "model_of",
    "parse_config",
    "parse_table",
    "read_text",
    "toml_key",
    "toml_value",
]  # fmt: skip
