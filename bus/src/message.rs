//! Messages as they arrive: raw ones, and requests that want an answer.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::{Stream, StreamExt};
use messages::WireError;
use messages::envelope::{Encoding, Envelope, EnvelopeError, Payload};
use messages::error::Code;
use messages::rpc::Reply;
use messages::subject::HEADER_CONTENT_TYPE;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::Bus;

/// Headers of a message. Look-up is case-sensitive, as the server's is.
#[derive(Debug, Clone, Default)]
pub struct Headers(Option<async_nats::HeaderMap>);

impl Headers {
    /// The first value of this name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.as_ref()?.get(name).map(async_nats::HeaderValue::as_str)
    }

    pub(crate) fn new(map: Option<async_nats::HeaderMap>) -> Self {
        Self(map)
    }
}

/// A message of a core subscription.
#[derive(Debug, Clone)]
pub struct RawMessage {
    pub subject: String,
    pub headers: Headers,
    pub payload: Bytes,
}

impl RawMessage {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)
    }

    /// The envelope, in either encoding, bounded in size and depth.
    pub fn decode<T: Payload>(&self) -> Result<Envelope<T>, EnvelopeError> {
        Envelope::decode(self.header(HEADER_CONTENT_TYPE), &self.payload)
    }
}

impl From<async_nats::Message> for RawMessage {
    fn from(message: async_nats::Message) -> Self {
        Self { subject: message.subject.into_string(), headers: Headers(message.headers), payload: message.payload }
    }
}

/// Messages of a subject, until dropped or until the connection is closed. Re-established after a
/// reconnect; what was published in between is lost, as core NATS is.
pub struct Subscription {
    pub(crate) inner: async_nats::Subscriber,
}

impl Stream for Subscription {
    type Item = RawMessage;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<RawMessage>> {
        self.inner.poll_next_unpin(cx).map(|message| message.map(RawMessage::from))
    }
}

/// Requests on a subject, until dropped or until the connection is closed.
pub struct Requests {
    pub(crate) inner: async_nats::Subscriber,
    pub(crate) bus: Bus,
}

impl Stream for Requests {
    type Item = Incoming;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Incoming>> {
        let bus = self.bus.clone();
        self.inner.poll_next_unpin(cx).map(|message| {
            message.map(|mut message| {
                let reply = message.reply.take();
                Incoming { message: message.into(), reply, bus }
            })
        })
    }
}

/// A request that wants an answer.
pub struct Incoming {
    message: RawMessage,
    reply: Option<async_nats::Subject>,
    bus: Bus,
}

impl Incoming {
    pub fn subject(&self) -> &str {
        &self.message.subject
    }

    /// The subject's last token.
    pub fn verb(&self) -> &str {
        self.message.subject.rsplit('.').next().unwrap_or_default()
    }

    pub fn payload(&self) -> &Bytes {
        &self.message.payload
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.message.header(name)
    }

    /// The request; what cannot be read is answered with [`Code::BadMessage`] or [`Code::TooLarge`].
    pub fn decode<T: Payload>(&self) -> Result<Envelope<T>, WireError> {
        self.message.decode().map_err(|error| {
            let code = match error {
                EnvelopeError::TooLarge { .. } => Code::TooLarge,
                _ => Code::BadMessage,
            };
            WireError::new(code, format!("request on {}: {error}", self.subject()))
        })
    }

    /// Answers in the encoding of the request. An answer that is larger than the server accepts
    /// becomes [`Code::TooLarge`]; one that nobody waits for is dropped.
    pub async fn reply<A: Serialize + DeserializeOwned>(self, answer: Result<A, WireError>) {
        let Some(reply) = self.reply else { return };
        let encoding = Encoding::of(self.message.header(HEADER_CONTENT_TYPE), &self.message.payload);
        let mut bytes = self.bus.envelope(Reply::from(answer)).encode(encoding);
        let max = self.bus.max_frame_bytes();
        if bytes.len() > max {
            let error =
                WireError::new(Code::TooLarge, format!("answer of {} bytes: the server accepts {max}", bytes.len()));
            bytes = self.bus.envelope(Reply::<A>::Error(error)).encode(encoding);
        }
        let headers = [(HEADER_CONTENT_TYPE, encoding.content_type())];
        if let Err(error) = self.bus.publish_raw(&reply, &headers, bytes.into()).await {
            tracing::warn!(subject = %self.message.subject, %error, "an answer could not be sent");
        }
    }
}
