//! Why connections end, in words that tell what to do.

use quinn::{Connection, ConnectionError, VarInt};

use crate::certificate::printable;
use crate::tls::ALPN;
use crate::verifier::unwrapped;

/// Why this end closes a connection, for programs; the words beside it are for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CloseCode {
    /// The node is shutting down.
    Closed = 0,
    /// The other end is not among the peers, or not any more.
    NotAPeer = 1,
    /// A client's certificate where a node's belongs.
    Client = 2,
    /// The greeting does not fit.
    Greeting = 3,
    /// What came is not of the protocol.
    Protocol = 4,
    /// A newer connection of the same pair has taken over.
    Superseded = 5,
    /// Both ends dialled at once, and the other connection is the one that stays.
    Crossed = 6,
    /// The greeting is older than the connection that there is.
    Stale = 7,
    /// The certificate that the connection began with has expired.
    Expired = 8,
    /// The node serves as many clients as it may.
    Full = 9,
}

/// Closes a connection with words.
pub(crate) fn close(connection: &Connection, code: CloseCode, words: &str) {
    connection.close(VarInt::from_u32(code as u32), words.as_bytes());
}

/// Whether the other end closed because both had dialled: no failure, and no reason to wait.
pub(crate) fn is_crossed(error: &ConnectionError) -> bool {
    let crossed = VarInt::from_u32(CloseCode::Crossed as u32);
    matches!(error, ConnectionError::ApplicationClosed(close) if close.error_code == crossed)
}

/// Whether the other end gave its dial up and blames nobody: it has another connection, or ends.
pub(crate) fn is_given_up(error: &ConnectionError) -> bool {
    match error {
        ConnectionError::ApplicationClosed(close) => {
            let code = u64::from(close.error_code);
            let is = |unblamed: CloseCode| unblamed as u64 == code;
            is(CloseCode::Superseded)
                || is(CloseCode::Crossed)
                || is(CloseCode::Closed) && close.reason.is_empty()
        }
        ConnectionError::ConnectionClosed(close) => {
            u64::from(close.error_code) == APPLICATION_ERROR
        }
        _ => false,
    }
}

/// What a close before the end of the handshake is told as, without its words (RFC 9000, 10.2.3).
const APPLICATION_ERROR: u64 = 0xc;

/// The alert of a handshake without a protocol in common, as an error of QUIC (RFC 9001, 8.1).
const NO_APPLICATION_PROTOCOL: u64 = 0x178;

/// The alert of a handshake without the certificate that was asked for (RFC 8446, 6.2).
const CERTIFICATE_REQUIRED: u64 = 0x174;

/// Refused before a handshake (RFC 9000, 20.1).
const CONNECTION_REFUSED: u64 = 0x2;

/// What nodes call themselves.
pub(crate) const THIS_NODE: &str = "this node";

/// Why a connection of this node to `who` ended or was never made.
pub(crate) fn lost(who: &str, error: &ConnectionError) -> String {
    lost_by(THIS_NODE, who, error)
}

/// The same, where `me` says what this end is.
pub(crate) fn lost_by(me: &str, who: &str, error: &ConnectionError) -> String {
    let ours = String::from_utf8_lossy(ALPN);
    match error {
        ConnectionError::ApplicationClosed(close) => {
            format!("{who} closed the connection: {}", words(&close.reason))
        }
        ConnectionError::ConnectionClosed(close) => match u64::from(close.error_code) {
            NO_APPLICATION_PROTOCOL => {
                format!(
                    "{who} does not speak {ours}; upgrade the older node, and check the address"
                )
            }
            CONNECTION_REFUSED => {
                format!(
                    "{who} takes no connection now: it is closing, or has too many at once, or too many from here"
                )
            }
            code @ 0x100..=0x1ff => format!(
                "{who} refused {me}'s certificate (TLS alert {}): {}",
                code - 0x100,
                words(&close.reason)
            ),
            _ => format!("{who} ended the connection: {}", printable(&close.to_string())),
        },
        ConnectionError::TransportError(error) => match u64::from(error.code) {
            NO_APPLICATION_PROTOCOL => {
                format!("{who} does not speak {ours}; upgrade the older node")
            }
            CERTIFICATE_REQUIRED => {
                format!("{who} shows no certificate; it needs one of this cluster's authority")
            }
            _ if error.reason == "peer sent no certificates" => {
                format!("{who} shows no certificate; it needs one of this cluster's authority")
            }
            0x100..=0x1ff => printable(unwrapped(&error.reason)),
            _ => format!("{who} broke the protocol: {}", printable(&error.to_string())),
        },
        ConnectionError::TimedOut => format!("{who} does not answer"),
        ConnectionError::Reset => format!("{who} has forgotten the connection; it was restarted"),
        ConnectionError::VersionMismatch => format!("{who} speaks another version of QUIC"),
        ConnectionError::LocallyClosed => format!("{me} closed the connection"),
        ConnectionError::CidsExhausted => "no connection id is left".into(),
    }
}

fn words(reason: &[u8]) -> String {
    let text = String::from_utf8_lossy(reason);
    match unwrapped(&text) {
        "" => "it gave no reason".into(),
        words => printable(words),
    }
}
