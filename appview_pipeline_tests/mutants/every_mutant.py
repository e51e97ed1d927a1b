"""All mutants, in the order of the packages that they are in."""

from __future__ import annotations

from appview_pipeline_tests.mutants.indexing import INDEXING
from appview_pipeline_tests.mutants.mutant import Mutant
from appview_pipeline_tests.mutants.network import NETWORK
from appview_pipeline_tests.mutants.protocol import PROTOCOL

MUTANTS: tuple[Mutant, ...] = (*PROTOCOL, *NETWORK, *INDEXING)
