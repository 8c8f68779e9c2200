//! How much anybody may cost: every limit, its default, and why it is that.

use std::time::Duration;

use quinn::{AckFrequencyConfig, IdleTimeout, VarInt};
use quorate_replicator::Channel;
use serde::{Deserialize, Serialize};

/// Streams that carry messages: one for each channel, for as long as the connection lasts.
pub(crate) const MESSAGE_STREAMS: u32 = Channel::ALL.len() as u32;

/// The stream on which both ends greet.
pub(crate) const HELLO_STREAMS: u32 = 1;

/// What may be sent on a connection beyond what was read, before both ends have greeted: some greetings, and no more.
const GREETING_WINDOW_BYTES: u32 = 4 << 10;

/// Packets that a peer may take before it acknowledges them. Two are usual; more save the CPU of packets that say nothing else,
/// and a pause in between still ends the wait.
const PACKETS_PER_ACK: u32 = 10;

/// Largest piece of a bulk body.
pub(crate) const BULK_CHUNK_BYTES_MAX: usize = 1 << 20;

/// How much anybody may cost. All of them hold for each node by itself; they need not be equal in a cluster.
///
/// The most that one connected peer can make this node hold is `queue_bytes_max` for each channel, and `stream_window_bytes`
/// for each stream in both directions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Limits {
    /// Most messages that wait to be sent to one peer on one channel. More hide a slow peer for longer; fewer refuse
    /// sooner.
    pub queue_messages_max: usize,
    /// Most bytes of messages that wait to be sent to one peer on one channel; a single message always fits.
    pub queue_bytes_max: usize,
    /// Most bytes of messages that wait on one channel for a peer that is not connected; larger ones are refused. They
    /// bridge the time in which a connection is made; what is older than that is of no use to a consensus.
    pub backlog_bytes_max: usize,
    /// What a peer may send on one stream before it is read here. Over a link with a round trip of `r` a channel carries at most
    /// `stream_window_bytes / r`.
    pub stream_window_bytes: u32,
    /// Most bulk bodies at once that a peer may be sending to this node. Further ones wait.
    pub bulk_transfers_max: u32,
    /// The size of the pieces of a bulk body, at most 1 MiB. Each has a checksum; smaller ones cost more time.
    pub bulk_chunk_bytes: usize,
    /// Most bytes a second of all bulk bodies that this node sends; 0 for no limit. Messages go first in any case, but
    /// ciphering takes time from everything else on the machine.
    pub bulk_bytes_per_second: u64,
    /// Most connections of clients. Further ones are refused, and told to ask another node.
    pub clients_max: usize,
    /// Most lanes that a client has at once, in one connection.
    pub client_lanes_max: u32,
    /// What a client may send on all its lanes together before it is read here, and as much may be on its way to it. With less than
    /// `stream_window_bytes` for each of its lanes, those that are not read can stop its others.
    pub client_window_bytes: u32,
    /// How long a bulk transfer goes without reaching its receiver before it is given up.
    #[serde(with = "humantime_serde")]
    pub bulk_give_up_after: Duration,
    /// Most connections whose other end has not proved yet who it is. Each costs less than 64 KiB.
    pub handshakes_max: usize,
    /// Most of those from one IPv4 address, or one IPv6 network of 64 bits.
    pub handshakes_per_address_max: usize,
    /// With so many handshakes under way, a new one has to prove first that its address is its own, which costs one more
    /// round trip and makes forged addresses useless. 0 asks everybody.
    pub handshakes_unproved_max: usize,
    /// Most connections a second from one address, after a first burst of twice as many.
    pub accepts_per_second: u32,
    /// Most connections that wait to be looked at.
    pub incoming_max: usize,
    /// How long a connection may take, from the first packet to both ends having greeted.
    #[serde(with = "humantime_serde")]
    pub handshake_timeout: Duration,
    /// How long a peer may be silent before the connection counts as lost.
    #[serde(with = "humantime_serde")]
    pub idle_timeout: Duration,
    /// How often a connection without traffic is kept alive. Several should fit into `idle_timeout`.
    #[serde(with = "humantime_serde")]
    pub keep_alive: Duration,
    /// How long a peer may stop in the middle of a message.
    #[serde(with = "humantime_serde")]
    pub stall_timeout: Duration,
    /// The pause before a lost peer is dialled again; doubles with each attempt in vain. The real pause is drawn between its
    /// half and all of it.
    #[serde(with = "humantime_serde")]
    pub backoff_min: Duration,
    /// The longest such pause.
    #[serde(with = "humantime_serde")]
    pub backoff_max: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            queue_messages_max: 4096,
            queue_bytes_max: 8 << 20,
            backlog_bytes_max: 256 << 10,
            stream_window_bytes: 1 << 20,
            bulk_transfers_max: 4,
            bulk_chunk_bytes: 64 << 10,
            bulk_bytes_per_second: 128 << 20,
            clients_max: 256,
            client_lanes_max: 16,
            client_window_bytes: 16 << 20,
            bulk_give_up_after: Duration::from_secs(30),
            handshakes_max: 64,
            handshakes_per_address_max: 16,
            handshakes_unproved_max: 16,
            accepts_per_second: 20,
            incoming_max: 256,
            handshake_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(10),
            keep_alive: Duration::from_secs(2),
            stall_timeout: Duration::from_secs(10),
            backoff_min: Duration::from_millis(50),
            backoff_max: Duration::from_secs(5),
        }
    }
}

impl Limits {
    /// Whether the limits make sense together; the words say which does not.
    pub(crate) fn check(&self) -> Result<(), String> {
        let positive = [
            ("queue_messages_max", self.queue_messages_max),
            ("queue_bytes_max", self.queue_bytes_max),
            ("bulk_transfers_max", self.bulk_transfers_max as usize),
            ("bulk_chunk_bytes", self.bulk_chunk_bytes),
            ("clients_max", self.clients_max),
            ("client_lanes_max", self.client_lanes_max as usize),
            ("handshakes_max", self.handshakes_max),
            ("handshakes_per_address_max", self.handshakes_per_address_max),
            ("accepts_per_second", self.accepts_per_second as usize),
            ("incoming_max", self.incoming_max),
        ];
        if let Some((name, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(format!(
                "limits.{name} is 0, so that nothing would pass; set it to 1 at least"
            ));
        }
        if self.bulk_chunk_bytes > BULK_CHUNK_BYTES_MAX {
            return Err(format!(
                "limits.bulk_chunk_bytes is {}, at most {BULK_CHUNK_BYTES_MAX} are taken",
                self.bulk_chunk_bytes
            ));
        }
        for (name, value) in [
            ("bulk_transfers_max", self.bulk_transfers_max),
            ("client_lanes_max", self.client_lanes_max),
        ] {
            if value > 1024 {
                return Err(format!("limits.{name} is {value}, at most 1024 are possible"));
            }
        }
        for (name, value) in [
            ("stream_window_bytes", self.stream_window_bytes),
            ("client_window_bytes", self.client_window_bytes),
        ] {
            if !(16 << 10..=256 << 20).contains(&value) {
                return Err(format!(
                    "limits.{name} is {value}, from 16 KiB to 256 MiB are possible"
                ));
            }
        }
        if self.keep_alive * 2 > self.idle_timeout {
            return Err(format!(
                "limits.keep_alive {:?} must fit twice into limits.idle_timeout {:?}, or one lost packet ends a \
                 connection",
                self.keep_alive, self.idle_timeout
            ));
        }
        for (name, value) in [
            ("idle_timeout", self.idle_timeout),
            ("keep_alive", self.keep_alive),
            ("handshake_timeout", self.handshake_timeout),
            ("stall_timeout", self.stall_timeout),
            ("backoff_min", self.backoff_min),
        ] {
            if value.is_zero() || value > Duration::from_secs(24 * 60 * 60) {
                return Err(format!("limits.{name} is {value:?}, up to a day is possible"));
            }
        }
        if self.backoff_min > self.backoff_max {
            return Err(format!(
                "limits.backoff_min {:?} is longer than limits.backoff_max {:?}; swap them",
                self.backoff_min, self.backoff_max
            ));
        }
        Ok(())
    }

    /// The limits of a node as quinn takes them.
    pub(crate) fn transport(&self) -> quinn::TransportConfig {
        let bidi = HELLO_STREAMS + self.bulk_transfers_max;
        let mut config = self.common();
        config
            .max_concurrent_uni_streams(MESSAGE_STREAMS.into())
            .max_concurrent_bidi_streams(bidi.into())
            .receive_window(GREETING_WINDOW_BYTES.into())
            .send_window(self.connection_window_bytes());
        config
    }

    /// The limits of a client: it opens all streams itself, and what a node sends on one waits for no other.
    pub(crate) fn client_transport(&self) -> quinn::TransportConfig {
        let lanes = HELLO_STREAMS + self.client_lanes_max;
        let window = u64::from(lanes) * u64::from(self.stream_window_bytes);
        let mut config = self.common();
        config
            .max_concurrent_uni_streams(0_u32.into())
            .max_concurrent_bidi_streams(0_u32.into())
            .receive_window(VarInt::from_u64(window).unwrap_or(VarInt::MAX))
            .send_window(window);
        config
    }

    /// What holds at both ends of every connection.
    fn common(&self) -> quinn::TransportConfig {
        let mut acks = AckFrequencyConfig::default();
        acks.ack_eliciting_threshold(PACKETS_PER_ACK.into());
        let mut config = quinn::TransportConfig::default();
        config
            .stream_receive_window(self.stream_window_bytes.into())
            .max_idle_timeout(IdleTimeout::try_from(self.idle_timeout).ok())
            .keep_alive_interval(Some(self.keep_alive))
            .ack_frequency_config(Some(acks))
            .datagram_receive_buffer_size(None);
        config
    }

    /// Gives a connection on which both ends have greeted the room that it needs.
    pub(crate) fn open(&self, connection: &quinn::Connection) {
        let all = VarInt::from_u64(self.connection_window_bytes()).unwrap_or(VarInt::MAX);
        connection.set_receive_window(all);
    }

    /// Gives a connection of a client, on which both ends have greeted, the room that it may have.
    pub(crate) fn open_to_client(&self, connection: &quinn::Connection) {
        connection.set_max_concurrent_uni_streams(0_u32.into());
        // quinn tells of free streams only when more than one in eight are: with some to spare, as many as may be always can.
        // How many are served at once is seen to by who serves them.
        let streams = HELLO_STREAMS + self.client_lanes_max + self.client_lanes_max / 4 + 1;
        connection.set_max_concurrent_bi_streams(streams.into());
        connection.set_send_window(self.client_window_bytes.into());
        connection.set_receive_window(self.client_window_bytes.into());
    }

    /// A stream that is not read holds its own window and no more, so that the connection's window is never what another stream
    /// waits for; the same on the sending side.
    fn connection_window_bytes(&self) -> u64 {
        let streams = HELLO_STREAMS + self.bulk_transfers_max + MESSAGE_STREAMS;
        u64::from(streams) * u64::from(self.stream_window_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_make_sense_and_what_does_not_is_named() {
        assert_eq!(Limits::default().check(), Ok(()));
        let wrong = [
            Limits { queue_messages_max: 0, ..Limits::default() },
            Limits { bulk_chunk_bytes: BULK_CHUNK_BYTES_MAX + 1, ..Limits::default() },
            Limits { bulk_transfers_max: 1025, ..Limits::default() },
            Limits { stream_window_bytes: 0, ..Limits::default() },
            Limits { clients_max: 0, ..Limits::default() },
            Limits { client_lanes_max: 1025, ..Limits::default() },
            Limits { client_window_bytes: 1 << 10, ..Limits::default() },
            Limits { keep_alive: Duration::from_secs(9), ..Limits::default() },
            Limits { handshake_timeout: Duration::ZERO, ..Limits::default() },
            Limits { idle_timeout: Duration::MAX, ..Limits::default() },
            Limits { backoff_min: Duration::from_secs(6), ..Limits::default() },
        ];
        for limits in wrong {
            let words = limits.check().unwrap_err();
            assert!(words.starts_with("limits."), "{words}");
        }
    }
}
