//! First packets of QUIC made by hand (RFC 9000, 17.2.2; RFC 9001, 5): an attacker that keeps nothing of a connection.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use rustls::Side;
use rustls::pki_types::ServerName;
use rustls::quic::{ClientConnection, Keys, Version};

use super::attacker::{provider, tls_client};

/// What a first packet has at least.
pub(crate) const DATAGRAM_BYTES: usize = 1200;

/// What of a datagram a frame may take up here.
pub(crate) const FRAME_BYTES_MAX: usize = 1100;

const CONNECTION_ID: [u8; 8] = *b"attacker";

const TAG_BYTES: usize = 16;

/// One attempt at a connection.
pub(crate) struct Initial {
    to_id: Vec<u8>,
    token: Vec<u8>,
    keys: Keys,
    number: u32,
}

impl Initial {
    /// A new one, unlike all before.
    pub(crate) fn new() -> Self {
        Self::to(fastrand::u64(..).to_be_bytes().to_vec(), Vec::new())
    }

    fn to(to_id: Vec<u8>, token: Vec<u8>) -> Self {
        let suites = provider().cipher_suites;
        let suite = suites.iter().find_map(|suite| {
            let suite = suite.tls13()?;
            (suite.common.suite == rustls::CipherSuite::TLS13_AES_128_GCM_SHA256).then_some(suite)
        });
        let suite = suite.and_then(|suite| suite.quic_suite()).unwrap();
        Self { keys: suite.keys(&to_id, Side::Client, Version::V1), to_id, token, number: 0 }
    }

    /// The same attempt once more, with the proof of the address that a Retry packet brought (RFC 9000, 17.2.5).
    pub(crate) fn proved(retry: &[u8]) -> Option<Self> {
        if retry.first()? & 0xf0 != 0xf0 {
            return None;
        }
        let rest = &retry[5..];
        let (ours, rest) = rest[1..].split_at_checked(usize::from(rest[0]))?;
        assert_eq!(ours, CONNECTION_ID);
        let (id, token) = rest[1..].split_at_checked(usize::from(rest[0]))?;
        let token = &token[..token.len().checked_sub(TAG_BYTES)?];
        Some(Self::to(id.to_vec(), token.to_vec()))
    }

    /// A packet with these frames, protected as it should be.
    pub(crate) fn packet(&mut self, frames: &[u8]) -> Vec<u8> {
        let mut packet = vec![0xc3];
        packet.extend_from_slice(&1_u32.to_be_bytes());
        packet.push(self.to_id.len() as u8);
        packet.extend_from_slice(&self.to_id);
        packet.push(CONNECTION_ID.len() as u8);
        packet.extend_from_slice(&CONNECTION_ID);
        packet.extend_from_slice(&varint(self.token.len() as u64));
        packet.extend_from_slice(&self.token);
        let number_at = packet.len() + 2;
        let payload = frames.len().max(DATAGRAM_BYTES - number_at - 4 - TAG_BYTES);
        let length = (4 + payload + TAG_BYTES) as u16;
        packet.extend_from_slice(&(0x4000 | length).to_be_bytes());
        packet.extend_from_slice(&self.number.to_be_bytes());
        let payload_at = packet.len();
        packet.extend_from_slice(frames);
        // Padding.
        packet.resize(payload_at + payload, 0);
        let (header, body) = packet.split_at_mut(payload_at);
        let key = &self.keys.local.packet;
        let tag = key.encrypt_in_place(self.number.into(), header, body).unwrap();
        packet.extend_from_slice(tag.as_ref());
        let (header, body) = packet.split_at_mut(payload_at);
        let (first, rest) = header.split_first_mut().unwrap();
        let number = &mut rest[number_at - 1..];
        self.keys.local.header.encrypt_in_place(&body[..16], first, number).unwrap();
        self.number += 1;
        packet
    }
}

/// A frame with a part of the handshake (RFC 9000, 19.6).
pub(crate) fn crypto(offset: u64, bytes: &[u8]) -> Vec<u8> {
    [&[6][..], &varint(offset), &varint(bytes.len() as u64), bytes].concat()
}

pub(crate) fn varint(value: u64) -> Vec<u8> {
    match value {
        0..0x40 => vec![value as u8],
        0x40..0x4000 => (value as u16 | 0x4000).to_be_bytes().to_vec(),
        _ => (value as u32 | 0x8000_0000).to_be_bytes().to_vec(),
    }
}

/// The first words of TLS, right in every respect.
pub(crate) fn client_hello() -> Vec<u8> {
    let mut parameters = vec![0x0f, CONNECTION_ID.len() as u8];
    parameters.extend_from_slice(&CONNECTION_ID);
    let config = Arc::new(tls_client(None));
    let name = ServerName::try_from("quorate").unwrap();
    let mut tls = ClientConnection::new(config, Version::V1, name, parameters).unwrap();
    let mut hello = Vec::new();
    assert!(tls.write_hs(&mut hello).is_none(), "no keys before an answer");
    assert!(hello.len() < FRAME_BYTES_MAX, "{} bytes", hello.len());
    hello
}

/// A socket of one of many addresses, where the system has them.
pub(crate) fn socket(number: u32) -> Option<UdpSocket> {
    let ip = Ipv4Addr::from(0x7f01_0000 + number);
    let socket = UdpSocket::bind((ip, 0)).ok()?;
    socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    Some(socket)
}

/// Sends the frames as a first packet, and again with the proof if one is asked for. Answers the attempt that counts.
pub(crate) fn begin(socket: &UdpSocket, to: SocketAddr, frames: &[u8]) -> Option<Initial> {
    let mut initial = Initial::new();
    socket.send_to(&initial.packet(frames), to).unwrap();
    let mut reply = [0; 2048];
    let (bytes, _) = socket.recv_from(&mut reply).ok()?;
    if let Some(mut proved) = Initial::proved(&reply[..bytes]) {
        socket.send_to(&proved.packet(frames), to).unwrap();
        return Some(proved);
    }
    Some(initial)
}

/// Takes what has come back, and answers how many bytes it was.
pub(crate) fn drain(socket: &UdpSocket) -> usize {
    socket.set_nonblocking(true).unwrap();
    let mut buffer = [0; 65_535];
    let mut total = 0;
    while let Ok((bytes, _)) = socket.recv_from(&mut buffer) {
        total += bytes;
    }
    socket.set_nonblocking(false).unwrap();
    total
}
