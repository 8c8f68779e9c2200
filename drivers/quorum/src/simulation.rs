//! What validators say, for `sim/`: it judges honest ones by their words, and has others say what they should not.

use bytes::Bytes;
use quorate_certificate::{
    CallKey, Certificate, ChainId, HEADER_BYTES, Header, SigningKey, ValidatorSet, ValueId,
};
use quorate_engine::engine::Message;
use quorate_replicator::Signer;
use quorate_storage::Body;

use crate::calls;
use crate::codec::{Reader, Writer};
use crate::mark::{Mark, PROOF_BYTES_MAX};
use crate::message::{self, Proved, Said};
use crate::tendermint::{Words, signed_proposal_of, signed_vote_of};

/// Something that an engine says to another.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Heard {
    /// A vote.
    Vote(Ballot),
    /// A proposal of a batch.
    Proposal {
        /// By whom.
        node: u64,
        /// Of which height.
        height: u64,
        /// Of which round.
        round: u32,
        /// The id of the header that is proposed.
        value: ValueId,
        /// The line of the journal for it.
        line: Bytes,
        /// That header, if it is there.
        header: Option<Box<Header>>,
    },
    /// What a read is told: the question, and up to which height something may be decided.
    Claim {
        /// The question.
        nonce: u64,
        /// The height.
        height: u64,
    },
    /// Votes of several validators that it has heard.
    Votes(Vec<Ballot>),
    /// Decided heights: the votes in the certificate of each.
    Heights(Vec<Vec<Ballot>>),
    /// How far a node is.
    Status,
    /// Anything else.
    Other,
}

/// A vote.
#[derive(Clone, Debug)]
#[allow(clippy::exhaustive_structs, reason = "the simulator makes them up")]
pub struct Ballot {
    /// By whom.
    pub node: u64,
    /// Whether it is the second of the round.
    pub is_precommit: bool,
    /// At which height.
    pub height: u64,
    /// In which round.
    pub round: u32,
    /// For what; none for nothing.
    pub value: Option<ValueId>,
    /// The line of the journal for it; empty for one that was made up.
    pub line: Bytes,
}

/// What a message says; none if it is of another chain, or nothing that an engine writes.
pub fn hear(chain: &ChainId, message: &Message) -> Option<Heard> {
    Some(match Said::decode(chain, message).ok()? {
        Said::Words(words, carried) => {
            if let Some(voter) = words.voter() {
                Heard::Vote(ballot_of(voter, &words)?)
            } else if let Some(proposed) = words.proposal() {
                Heard::Proposal {
                    node: proposed.proposer,
                    height: words.height(),
                    round: proposed.round,
                    value: proposed.value,
                    line: words.note(),
                    header: carried.map(|carried| Box::new(carried.header)),
                }
            } else {
                let votes = words.votes_in(0).into_iter();
                Heard::Votes(votes.filter_map(|(node, vote)| ballot_of(node, &vote)).collect())
            }
        }
        Said::Claim { nonce, height } => Heard::Claim { nonce, height },
        Said::Heights(heights) => {
            let ballots = |proved: &Proved| ballots_of(&proved.proof).unwrap_or_default();
            Heard::Heights(heights.iter().map(ballots).collect())
        }
        Said::Status { .. } => Heard::Status,
        _ => Heard::Other,
    })
}

/// A vote, signed for `signed` with this key, in a message for `chain`; none if signing failed.
pub fn vote(
    chain: &ChainId,
    (signed, epoch): (&ChainId, u64),
    ballot: &Ballot,
    key: &SigningKey,
) -> Option<Message> {
    let Ballot { node, is_precommit, height, round, value, .. } = ballot;
    let what = (*is_precommit, *height, *round, *value);
    let words = signed_vote_of((signed, epoch), what, *node, key)?;
    Some(message::words(chain, &encoded(&words), None))
}

/// A proposal of a header and a body, signed with this key; none if signing failed.
pub fn proposal(
    (chain, epoch): (&ChainId, u64),
    round: u32,
    header: &Header,
    body: &Body,
    key: &SigningKey,
) -> Option<Message> {
    let what = (header.height, round, header.id());
    let words = signed_proposal_of((chain, epoch), what, header.proposer, key)?;
    let head = Bytes::from(header.encode());
    Some(message::words(chain, &encoded(&words), Some((&head, body))))
}

/// What signs calls with a key, in the one group of a cluster.
pub fn signer(key: CallKey) -> Signer {
    calls::signer(key, 1)
}

/// How far a node says that it is.
pub fn status(chain: &ChainId, height: u64) -> Message {
    message::status(chain, height, false)
}

/// What a read is told.
pub fn claim(chain: &ChainId, nonce: u64, height: u64) -> Message {
    message::claim(chain, nonce, height)
}

/// The header and the certificate of the height that a mark stands after.
pub fn proved(chain: &ChainId, mark: &[u8]) -> Option<(Bytes, Bytes)> {
    Mark::decode(chain, mark).ok()?.proved
}

/// The validators of the two heights after a mark, as it says.
pub fn validators_after(chain: &ChainId, mark: &[u8]) -> Option<[ValidatorSet; 2]> {
    let mark = Mark::decode(chain, mark).ok()?;
    Some([mark.validators, mark.next_validators])
}

/// The votes that come with a snapshot.
pub fn votes_of_snapshot(words: &[u8]) -> Vec<Ballot> {
    let mut from = Reader::new(words);
    let proof = from.bytes(HEADER_BYTES).and_then(|_| from.bytes(PROOF_BYTES_MAX));
    proof.ok().and_then(ballots_of).unwrap_or_default()
}

fn ballot_of(node: u64, words: &Words) -> Option<Ballot> {
    let (is_precommit, height, round, value) = words.vote()?;
    Some(Ballot { node, is_precommit, height, round, value, line: words.note() })
}

/// The votes in a certificate.
fn ballots_of(proof: &[u8]) -> Option<Vec<Ballot>> {
    let certificate = Certificate::decode(proof).ok()?;
    let (height, round) = (certificate.height(), certificate.round());
    let value = Some(*certificate.value());
    let votes = certificate.signatures().iter().filter_map(|(node, signature)| {
        let words = Words::precommit((height, round, value), *node, signature.clone());
        ballot_of(*node, &words)
    });
    Some(votes.collect())
}

fn encoded(words: &Words) -> Bytes {
    let mut to = Writer::default();
    words.encode(&mut to);
    to.finish()
}
