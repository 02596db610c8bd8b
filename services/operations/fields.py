"""The store's fields: `table.column | form | what it is and what it tells | calls that answer`.

Forms are those of `ExposureForm` (proto/rookery/v1/operations.proto).
"""

from __future__ import annotations

from typing import Final

FIELDS: Final = """
meta.name                 | metadata   | name of a value of the store itself |
meta.value                | metadata   | generation and secret of the cursors, schema marks: of no account |
account.account_n         | id         | small number of an account inside the store |
account.account_id        | id         | hash of the first link: the same in every call of the account |
account.subject_row       | blinded    | which accounts one subject made, under a pepper outside of the store |
account.chain             | public_key | devices with their public keys, roles, and who added or removed whom | Accounts/GetChain
tail.account_n            | id         | as account.account_n |
tail.position             | metadata   | how many ops the account ever wrote | Sync/Pull Sync/Subscribe
tail.lamport_max          | metadata   | about how many edits there were |
tail.records              | metadata   | how many live records the account has |
tail.records_before       | metadata   | the same of the epoch before |
link.link_id              | id         | account and place in its chain |
link.link                 | public_key | one change of the device chain, as it was signed | Accounts/GetChain
link.sig                  | digest     | signature of the link | Accounts/GetChain
link.pop                  | digest     | proof that the new key is held | Accounts/GetChain
link.grants               | sealed     | epoch keys, sealed for each device | Accounts/GetChain
epoch_end.epoch_id        | id         | account and epoch |
epoch_end.ended_ms        | metadata   | when an epoch ended |
device.device_key         | id         | account and index of a device |
device.dev_seq            | metadata   | how many ops the device wrote | Sync/GetReceipt
device.op_hash            | digest     | its newest op | Sync/GetReceipt
device.passed             | metadata   | how far the device has read |
segment.segment_id        | id         | account and position |
segment.held              | metadata   | which ops of a push are still here |
segment.push_rest         | metadata   | how many ops were pushed at once |
segment.ops               | sealed     | ops: names and values sealed; device, time order, blinded tag and padded size in clear | Sync/Pull Sync/Subscribe
live.name                 | blinded    | account, epoch and tag of a record: the same record again shows, its name doesn't |
live.winner               | metadata   | position, order and author of a record's newest op |
superseded.account_n      | id         | as account.account_n |
superseded.at             | metadata   | which push superseded an op |
superseded.position       | metadata   | which op |
run.account_n             | id         | as account.account_n |
run.device_index          | id         | index of a device |
run.dev_seq               | metadata   | which of its ops |
run.position              | metadata   | where they lie |
gone.account_n            | id         | as account.account_n |
gone.device_index         | id         | index of a device |
gone.dev_seq              | metadata   | which of its ops was trimmed |
gone.hash_start           | digest     | eight bytes of its hash |
checkpoint.account_n      | id         | as account.account_n |
checkpoint.position       | metadata   | where a checkpoint is |
checkpoint.covers         | metadata   | up to where it reaches |
checkpoint.epoch          | metadata   | its epoch |
mailbox.rendezvous        | id         | random id of a pairing under way |
mailbox.number            | metadata   | which message of it |
mailbox.body              | sealed     | a pairing message, for minutes | Pairing/FetchMessage
mailbox.expires_ms        | metadata   | when it goes |
task.task_n               | id         | order of publication | Rounds/ListTasks
task.task_id              | clear      | name of a task | Rounds/ListTasks Rounds/GetRound Operations/GetPrivacyHealth
task.spec_hash            | digest     | hash of a task | Rounds/ListTasks Rounds/GetRound Operations/GetRoundsOverview
task.publisher            | public_key | who published it | Rounds/ListTasks Rounds/GetRound
task.task                 | clear      | what is measured, for which purpose, with how much noise: public by design | Rounds/ListTasks Rounds/GetRound Operations/GetRoundsOverview
task.sig                  | digest     | its signature | Rounds/ListTasks Rounds/GetRound
round.round_n             | id         | small number of a round inside the store |
round.round_id            | id         | random id of a round | Rounds/ListTasks Rounds/GetRound Operations/GetRoundsOverview
round.task_n              | id         | its task |
round.manifest            | public_key | window, parties and their keys | Rounds/GetRound Operations/GetRoundsOverview
round.sigs                | digest     | the parties' signatures | Rounds/GetRound Operations/GetRoundsOverview
round.m                   | metadata   | how many parties | Rounds/GetRound
round.open_ms             | metadata   | when it opens | Rounds/ListTasks Rounds/GetRound Operations/GetRoundsOverview
round.close_ms            | metadata   | when its window ends | Rounds/GetRound
round.until_ms            | metadata   | until when contributions are taken | Rounds/ListTasks Rounds/GetRound Operations/GetRoundsOverview
round.sealed              | metadata   | takes no more contributions | Rounds/GetRound
round.position            | metadata   | how many contributions there ever were |
round.held                | metadata   | how many are held | Parties/StreamBoxes
round.over                | metadata   | its boxes go | Rounds/GetRound
round.dropped             | metadata   | its boxes are gone |
round_party.round_n       | id         | a round |
round_party.party         | metadata   | which of its parties |
round_party.key_id        | id         | id of the party's key |
round_party.ik            | public_key | the party's key | Rounds/GetRound
contribution.contribution_id | id      | round and position |
contribution.account_n    | id         | WHO TOOK PART in a round, until its boxes go | Rounds/GetRound
contribution.digest       | digest     | of all its boxes |
box.box_id                | id         | round, party and position |
box.data                  | sealed     | one share of a report, sealed for one party | Parties/StreamBoxes
result.round_n            | id         | a round |
result.result             | clear      | noised sums that the parties opened together | Rounds/GetResult Operations/GetRoundsOverview
result.sigs               | digest     | the parties' signatures | Rounds/GetResult Operations/GetRoundsOverview
abandonment.round_n       | id         | a round |
abandonment.party         | metadata   | a party that gave it up | Rounds/GetResult Operations/GetRoundsOverview
abandonment.statement     | clear      | its reason, out of a fixed list | Rounds/GetResult Operations/GetRoundsOverview
abandonment.sig           | digest     | its signature | Rounds/GetResult Operations/GetRoundsOverview
wake.device_key           | id         | account and index of a device |
wake.handle               | sealed     | push token, sealed for the gateway | Wake/GetHandle
wake.expires_ms           | metadata   | when it is forgotten |
wake.due_ms               | metadata   | when the device is to be woken |
wake.sent_ms              | metadata   | when it was woken last |
wake.turn                 | metadata   | of the newest attempt |
wake.claimed              | metadata   | an attempt is under way |
wake.again                | metadata   | there is more since |
wake.tries                | metadata   | attempts in vain |
policy.sequence           | metadata   | number of a bundle | Policy/GetPolicy Policy/WatchPolicy Operations/GetPrivacyHealth
policy.previous           | digest     | the bundle before | Policy/GetPolicy Policy/WatchPolicy
policy.hash               | digest     | of the bundle | Policy/GetPolicy Policy/WatchPolicy Operations/GetPrivacyHealth
policy.data               | clear      | the policy: public by design | Policy/GetPolicy Policy/WatchPolicy
policy.sig                | digest     | its signature | Policy/GetPolicy Policy/WatchPolicy
policy.publisher          | public_key | who published it | Policy/GetPolicy Policy/WatchPolicy
policy.at_ms              | metadata   | when it was put |
consent.consent_id        | id         | account and place in its chain of consent | Policy/ListReceipts
consent.prev              | digest     | the entry before | Policy/ListReceipts
consent.hash              | digest     | of the entry | Policy/ListReceipts
consent.tag               | blinded    | which purpose, hidden until a contribution opens it | Policy/ListReceipts
consent.granted           | metadata   | yes or no to a purpose that does not show | Policy/ListReceipts
consent.device_id         | id         | which device said it | Policy/ListReceipts
consent.entry             | blinded    | the entry as it was signed | Policy/ListReceipts
consent.sig               | digest     | its signature | Policy/ListReceipts
consent.at_ms             | metadata   | when it was taken | Policy/ListReceipts
consent_now.account_n     | id         | as account.account_n |
consent_now.tag           | blinded    | as consent.tag |
consent_now.seq           | metadata   | place of the newest entry under it |
consent_now.granted       | metadata   | as consent.granted |
audit.seq                 | metadata   | place in the audit log | Operations/ListAudit
audit.at_ms               | metadata   | when | Operations/ListAudit
audit.prev                | digest     | the entry before | Operations/ListAudit
audit.body                | clear      | which key called what, and how it ended; no account, name or value | Operations/ListAudit
audit.hash                | digest     | of the entry | Operations/ListAudit Operations/GetPrivacyHealth
audit_anchor.one          | metadata   | always 1 |
audit_anchor.seq          | metadata   | the last entry that was trimmed | Operations/ListAudit Operations/GetPrivacyHealth
audit_anchor.hash         | digest     | its hash | Operations/ListAudit Operations/GetPrivacyHealth
audit_anchor.at_ms        | metadata   | its time |
"""  # noqa: E501
