//! A lane on which a node speaks by itself, after one request.

use std::time::Duration;

use quorate_transport_quic::{Lane, LaneReceiver, LaneSender};
use serde::de::DeserializeOwned;

use crate::protocol::{self, Heard, Parts, Request};

/// The client's end of such a lane.
#[derive(Debug)]
pub(crate) struct Feed {
    sender: LaneSender,
    receiver: LaneReceiver,
    parts: Parts,
}

impl Feed {
    /// Asks for what the lane is to give.
    pub(crate) async fn open(lane: Lane, request: &Request) -> Result<Self, String> {
        let (sender, receiver) = lane.split();
        let mut feed = Self { sender, receiver, parts: Parts::default() };
        feed.say(request).await?;
        Ok(feed)
    }

    /// Says something to the node, which does not answer it by itself.
    pub(crate) async fn say(&mut self, request: &Request) -> Result<(), String> {
        let message = protocol::request(0, Duration::ZERO, request);
        let message = message.map_err(|size| format!("a request has {size} bytes"))?;
        self.sender.send(vec![message]).await.map_err(|error| error.to_string())
    }

    /// What the node says next. Cancel safe.
    pub(crate) async fn next<T: DeserializeOwned>(&mut self) -> Result<T, String> {
        loop {
            let message = self.receiver.next().await.map_err(|error| error.to_string())?;
            let message = message.ok_or("the node ended the lane")?;
            match self.parts.push(message).map_err(|malformed| malformed.to_string())? {
                Heard::Answer(_, body) => {
                    return protocol::decode(&body).map_err(|malformed| malformed.to_string());
                }
                Heard::Height(_) => return Err("a height comes where none was asked for".into()),
                Heard::Part => {}
            }
        }
    }
}
