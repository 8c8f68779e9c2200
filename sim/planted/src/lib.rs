//! Bugs that are put into a build on purpose, to show that the simulator finds them.
//!
//! ```text
//!   RUSTFLAGS="--cfg quorate_planted":   product code --is_planted()?--> this crate <--plant()-- simulator
//!   any other build:                     no hook, and no such dependency
//! ```
//!
//! A hook is one statement under `#[cfg(quorate_planted)]`, at the place where the bug would be. It does nothing before the
//! bug is planted, and then only on the thread that planted it.

use std::cell::Cell;

/// Where a bug shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// On one node.
    Local,
    /// In a cluster.
    Cluster,
    /// Among validators, in lives of the scenario of this name.
    Validators(&'static str),
}

macro_rules! bugs {
    ($($bug:ident, $name:literal, $subject:ident $(($scenario:literal))?, $words:literal;)*) => {
        /// Something that could be wrong.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum Bug {
            $(#[doc = $words] $bug,)*
        }

        impl Bug {
            /// Every bug there is.
            pub const ALL: &[Self] = &[$(Self::$bug,)*];

            /// Its name on a command line.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$bug => $name,)* }
            }

            /// Where it shows.
            pub const fn subject(self) -> Subject {
                match self { $(Self::$bug => Subject::$subject $(($scenario))?,)* }
            }

            /// What is wrong.
            pub const fn words(self) -> &'static str {
                match self { $(Self::$bug => $words,)* }
            }
        }
    };
}

bugs! {
    // The log.
    TornTailIsDamage, "torn-tail-is-damage", Local, "a torn tail is taken for damage";
    DamageIsTornTail, "damage-is-torn-tail", Cluster, "damage is taken for a torn tail, and cut off";
    LastBlockTrusted, "last-block-trusted", Local, "the last block is not written again when the log is opened";
    SyncRetried, "sync-retried", Local, "a sync that failed is tried again";
    // Checkpoints.
    IndexBeforeData, "index-before-data", Local, "the index of a checkpoint is stored before its data";
    ChangeNotStored, "change-not-stored", Local, "a removed key stays in the next checkpoint";
    // The local engine.
    AnsweredUnsynced, "answered-unsynced", Local, "one node answers before its write is durable";
    // The host core.
    DeliveredEarly, "delivered-early", Local, "what is decided is applied before its write is durable";
    HeldSendsGoEarly, "held-sends-go-early", Cluster, "messages leave before what they promise is durable";
    AppliedTwice, "applied-twice", Local, "a repeated frame is applied again";
    IdReused, "id-reused", Local, "a payload under the id of another one is taken for a repetition";
    SessionsNotStored, "sessions-not-stored", Local, "sessions are missing in checkpoints";
    SerialsNotStored, "serials-not-stored", Local, "what a session has decided is missing in checkpoints";
    OldestRefused, "oldest-refused", Local, "a full session has no room for its oldest open serial";
    SkipsForgotten, "skips-forgotten", Local, "repeated frames are given to who reads the log";
    LogTimeBack, "log-time-back", Cluster, "log time follows the clock of the proposer";
    LogTimeNotRestored, "log-time-not-restored", Local, "log time is not restored from a checkpoint";
    TrimmedTooFar, "trimmed-too-far", Local, "the log is trimmed beyond the checkpoint";
    ReadAtApplied, "read-at-applied", Cluster, "a read does not wait for what it must see";
    SubscriptionGap, "subscription-gap", Cluster, "subscribers are not told of what a snapshot replaced";
    GivenAgain, "given-again", Local, "who subscribes again is given its last batch again";
    OtherBatch, "other-batch", Cluster, "a batch of another leader is taken for the own one at its index";
    RefusedUnknown, "refused-unknown", Cluster, "a frame that another node may have is told to be refused";
    ChangesLeftBehind, "changes-left-behind", Local, "a driver switch takes the checkpoint, and not what changed since";
    // The Raft driver.
    VoteNotSynced, "vote-not-synced", Cluster, "a vote leaves before it is durable";
    TermNotStored, "term-not-stored", Cluster, "term and vote are not stored";
    AckNotSynced, "ack-not-synced", Cluster, "a follower acknowledges what is not durable";
    LeaderNotSynced, "leader-not-synced", Cluster, "a leader counts its own copy before it is durable";
    OldTermCounted, "old-term-counted", Cluster, "a leader decides entries of an earlier term by counting copies";
    NoReadBarrier, "no-read-barrier", Cluster, "a new leader answers reads before it knows all that is decided";
    ReadOnLease, "read-on-lease", Cluster, "a leader answers reads without asking the others";
    OldMembersStored, "old-members-stored", Cluster, "checkpoints carry the members of the beginning";
    WipedRejoins, "wiped-rejoins", Cluster, "a node whose disk was lost votes under its old identity";
    SnapshotWithoutReset, "snapshot-without-reset", Cluster, "a snapshot is put in force without a reset of the log";
    NeverCut, "never-cut", Cluster, "the log keeps what was replaced";
    NeverWakes, "never-wakes", Cluster, "a group that sleeps is not woken";
    // The quorum driver.
    WordsNotSynced, "words-not-synced", Validators("swarm"), "votes and proposals leave before they are durable";
    CandidateNotKept, "candidate-not-kept", Validators("swarm"), "what is voted for is not written before the vote";
    JournalNotReplayed, "journal-not-replayed", Validators("blackouts"), "a start does not look at the journal";
    HalfIsQuorum, "half-is-quorum", Validators("swarm"), "more than half are taken for a quorum where some may lie";
    VotesUnverified, "votes-unverified", Validators("forge"), "signatures of votes are not looked at";
    HeightsUnverified, "heights-unverified", Validators("lying-peer"), "heights are taken without a certificate that holds";
    CandidatesUnjudged, "candidates-unjudged", Validators("invalid"), "what is proposed is voted for whatever it is";
    LogTimeUnjudged, "log-time-unjudged", Validators("far-future"), "batches of any later time are voted for";
    WipedVotesAtOnce, "wiped-votes-at-once", Validators("lost-disks"), "a validator whose disk was lost votes where it may have voted";
    ChangeTooEarly, "change-too-early", Validators("changes"), "changed validators are in force one height early";
    WaitsForSilent, "waits-for-silent", Validators("silent"), "a proposer that says nothing is waited for";
    // The keys.
    DeadlineKept, "deadline-kept", Local, "a key that is put again expires when it would have before";
    RefusedKept, "refused-kept", Local, "what an extension did before it refused an operation stays";
    CompareIgnored, "compare-ignored", Cluster, "a write happens whether or not its condition holds";
}

thread_local! {
    static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
}

impl Bug {
    /// Whether this thread has it now.
    pub fn is_planted(self) -> bool {
        PLANTED.get() == Some(self)
    }

    /// Gives it to this thread, until what is returned is dropped.
    #[must_use = "the bug goes when this is dropped"]
    pub fn plant(self) -> Planted {
        PLANTED.set(Some(self));
        Planted(())
    }
}

/// While it lives, its thread has a bug.
#[derive(Debug)]
pub struct Planted(());

impl Drop for Planted {
    fn drop(&mut self) {
        PLANTED.set(None);
    }
}
