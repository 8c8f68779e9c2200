//! What a node says of itself.

use quorate_engine::engine::EngineStatus;
use quorate_replicator::{NodeId, PeerStatus, Role};

use super::QuorumEngine;

impl QuorumEngine {
    pub(super) fn explain(&self) -> EngineStatus {
        let is_validator = self.is_validator();
        let role = if is_validator { Role::Validator } else { Role::Learner };
        let members = self.validators().validators().iter().map(|known| NodeId::new(known.node));
        EngineStatus {
            term: self.next(),
            proposer: Some(self.proposer_in(0)),
            decided: self.mark.height,
            members: members.collect(),
            peers: self.others().into_iter().map(|node| self.peer_status(node)).collect(),
            reason: self.reason(is_validator),
            ..EngineStatus::new(role)
        }
    }

    fn peer_status(&self, node: NodeId) -> PeerStatus {
        let mut status = PeerStatus::new(node);
        if self.foreign.contains(&node) {
            status.note =
                "is of another cluster or has another genesis: compare the genesis files".into();
        }
        if let Some(deed) = self.deed_of(node) {
            status.note = deed;
        }
        if let Some(motion) = self.approved_by(node).filter(|_| status.note.is_empty()) {
            status.note = format!("approves: {motion}");
        }
        let Some(peer) = self.peers.get(&node) else { return status };
        status.last_contact = peer.heard.map(|at| self.now.saturating_sub(at));
        status.matched = peer.height;
        status.lag = peer.height.map(|height| self.mark.height.saturating_sub(height));
        if peer.is_sent_snapshot && status.note.is_empty() {
            status.note = "is sent a snapshot".into();
        }
        status
    }

    /// Why this node does not take part, or waits for others.
    fn reason(&self, is_validator: bool) -> Option<String> {
        if let Some(fault) = &self.fault {
            return Some(fault.clone());
        }
        if !is_validator {
            return Some(format!(
                "this node is no validator of height {}: it applies what others decide",
                self.next()
            ));
        }
        if !self.votes() {
            return Some(self.why_it_does_not_vote());
        }
        let round = self.height.as_ref()?.round();
        (round > 1).then(|| {
            format!(
                "height {} is in round {round}: too few validators answer, or they do not agree",
                self.next()
            )
        })
    }
}
