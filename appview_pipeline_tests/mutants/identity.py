"""Defects in resolving accounts, and in checking their handles."""

from __future__ import annotations

from appview_pipeline_tests.mutants.mutant import Mutant

IDENTITY = (
    Mutant(
        name="a-claim-is-enough",
        file="appview_pipeline/identity/handles.py",
        old="    verified = named.did == did\n",
        new="    verified = named.did is not None\n",
        promise="A handle is verified only where it names the account that claims it.",
        documented="docs/identity.md#what-it-does",
        tests=("identity/test_handles.py::test_who_is_named_instead_is_said",),
    ),
    Mutant(
        name="the-first-of-two-accounts-in-dns",
        file="appview_pipeline/identity/handles.py",
        old="        if len(dids) == 1:",
        new="        if dids:",
        promise="A handle whose TXT records name two accounts belongs to neither.",
        documented="docs/identity.md#what-it-does",
        tests=("identity/test_handles.py::test_two_accounts_in_dns_are_a_failure",),
    ),
    Mutant(
        name="the-web-is-final-while-dns-is-in-trouble",
        file="appview_pipeline/identity/handles.py",
        old="    return NamedAccount(did, HTTPS, None if dns_is_final else dns_reason, is_final=dns_is_final)",
        new="    return NamedAccount(did, HTTPS, None, is_final=True)",
        promise="What the web says of a handle is final only once DNS has answered.",
        documented="docs/identity.md#what-it-does",
        tests=(
            "identity/test_handles.py::test_another_account_on_the_web_is_not_final_while_dns_is_in_trouble",
            "identity/test_handles.py::test_the_web_verifies_while_dns_is_in_trouble",
        ),
    ),
    Mutant(
        name="error-pages-name-accounts",
        file="appview_pipeline/identity/handles.py",
        old="    if not 200 <= answer.status < 300:",
        new="    if False:",
        promise="Only an answer of success says whom a handle names.",
        documented="docs/identity.md#what-it-does",
        tests=("identity/test_handles.py::test_what_the_web_answers_is_in_the_reason",),
    ),
    Mutant(
        name="a-directory-that-forgets",
        file="appview_pipeline/identity/attempt.py",
        old="    if not was_found or found.source",
        new="    if True or found.source",
        promise="A wrong server in place of the PLC directory takes no account its handle.",
        documented="docs/identity.md#what-the-reasons-mean",
        tests=("identity/test_attempt.py::test_a_directory_that_forgets_a_did_gives_no_answer",),
    ),
    Mutant(
        name="a-server-left-alone-costs-an-attempt",
        file="appview_pipeline/identity/attempt.py",
        old="    if not counts:\n        return backoff.resolution_elsewhere(retry_after)",
        new="    if False:\n        return backoff.resolution_elsewhere(retry_after)",
        promise="That a server is left alone is no failure of the accounts at it.",
        documented="docs/identity.md#who-goes-first",
        tests=("identity/test_attempt.py::test_a_server_that_is_left_alone_is_no_failure_of_the_account",),
    ),
    Mutant(
        name="an-answer-for-ever",
        file="appview_pipeline/identity/cache.py",
        old="        if entry is None or entry.until <= self._clock():",
        new="        if entry is None:",
        promise="An answer is used without asking again for `APPVIEW_IDENTITY_FRESH_SECONDS`, and no longer.",
        documented="docs/identity.md#settings",
        tests=("identity/test_cache.py::test_an_answer_is_used_for_an_hour",),
    ),
    Mutant(
        name="an-event-leaves-the-answer-new",
        file="appview_pipeline/identity/cache.py",
        old='        if row.queue == "event":\n',
        new="        if False:\n",
        promise="After an #identity event the network is asked anew.",
        documented="docs/identity.md#what-it-does",
        tests=(
            "identity/test_cache.py::test_an_event_makes_an_answer_old",
            "identity/test_cache.py::test_an_event_during_the_attempt_makes_its_answer_old",
        ),
    ),
    Mutant(
        name="a-cache-without-a-limit",
        file="appview_pipeline/identity/cache.py",
        old="            while len(self._entries) > self._settings.identity_cache:",
        new="            while False:",
        promise="Memory holds `APPVIEW_IDENTITY_CACHE` accounts at most.",
        documented="docs/verification.md#keys",
        tests=("identity/test_cache.py::test_the_least_recently_used_is_forgotten",),
    ),
    Mutant(
        name="each-thread-asks-for-itself",
        file="appview_pipeline/identity/cache.py",
        old=(
            "            if not force or (flight.force and flight.number > number):\n"
            "                return flight.answer.result()"
        ),
        new="            if flight.force and flight.number > number:\n                return flight.answer.result()",
        promise="Of several threads that ask for an account at once, one asks the network.",
        documented="docs/architecture.md#resolution",
        tests=("identity/test_cache.py::test_threads_that_ask_at_once_ask_the_network_once",),
    ),
    Mutant(
        name="the-status-of-another-account",
        file="appview_pipeline/identity/hosting.py",
        old='    if answer.get("did", did) != did:',
        new="    if False:",
        promise="What a PDS says of one account is not believed of another.",
        documented="docs/accounts.md#who-says-whether-an-account-is-shown",
        tests=("identity/test_hosting.py::test_an_answer_that_says_nothing_is_none",),
    ),
)
