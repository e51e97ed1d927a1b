"""All mutants, by the package of the product that they are in."""

from __future__ import annotations

from appview_pipeline_tests.mutants.backfill import BACKFILL
from appview_pipeline_tests.mutants.defs import DEFS
from appview_pipeline_tests.mutants.identity import IDENTITY
from appview_pipeline_tests.mutants.indexing import INDEXING
from appview_pipeline_tests.mutants.ingest import INGEST
from appview_pipeline_tests.mutants.labels import LABELS
from appview_pipeline_tests.mutants.leases import LEASES
from appview_pipeline_tests.mutants.mutant import Mutant
from appview_pipeline_tests.mutants.network import NETWORK
from appview_pipeline_tests.mutants.operations import OPERATIONS
from appview_pipeline_tests.mutants.protocol import PROTOCOL
from appview_pipeline_tests.mutants.sql import SQL
from appview_pipeline_tests.mutants.store import STORE
from appview_pipeline_tests.mutants.top import TOP

MUTANTS: tuple[Mutant, ...] = (
    *TOP,
    *PROTOCOL,
    *NETWORK,
    *STORE,
    *SQL,
    *LEASES,
    *INDEXING,
    *IDENTITY,
    *INGEST,
    *BACKFILL,
    *LABELS,
    *OPERATIONS,
    *DEFS,
)
