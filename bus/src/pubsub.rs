//! Core NATS: publish, subscribe, request and reply.

use std::time::Duration;

use async_nats::{HeaderMap, Message, PublishErrorKind, RequestErrorKind};
use bytes::Bytes;
use messages::envelope::{Encoding, Envelope, Payload, decode_any};
use messages::error::Code;
use messages::rpc::{Reply, Request};
use messages::subject::{HEADER_CONTENT_TYPE, HEADER_MSG_ID, HEADER_TRACEPARENT, SERVER_USER_INFO};
use messages::trace::TraceParent;
use messages::{JobId, WireError};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep, timeout};

use crate::Bus;
use crate::error::{Error, ErrorKind, Result};
use crate::link::Action;
use crate::message::{Requests, Subscription};

/// First and longest pause between two tries of a request or publish.
pub(crate) const FIRST_PAUSE: Duration = Duration::from_millis(50);
pub(crate) const LONGEST_PAUSE: Duration = Duration::from_secs(1);

impl Bus {
    /// Publishes without an acknowledgement, as MessagePack, with the headers that the envelope gives.
    pub async fn publish<T: Payload>(&self, subject: &str, envelope: &Envelope<T>) -> Result<()> {
        let payload = envelope.encode(Encoding::MsgPack).into();
        self.send(subject, envelope_headers(envelope, Encoding::MsgPack), payload).await
    }

    /// Publishes bytes without an acknowledgement.
    pub async fn publish_raw(&self, subject: &str, headers: &[(&str, &str)], payload: Bytes) -> Result<()> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, header_text(value).as_str());
        }
        self.send(subject, map, payload).await
    }

    pub(crate) async fn send(&self, subject: &str, headers: HeaderMap, payload: Bytes) -> Result<()> {
        let bytes = payload.len();
        let publish = self.inner.client.publish_with_headers(subject.to_owned(), headers, payload);
        match timeout(self.request_timeout(), publish).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(match error.kind() {
                PublishErrorKind::MaxPayloadExceeded => self.too_large(subject, bytes),
                PublishErrorKind::InvalidSubject => bad_subject(subject),
                PublishErrorKind::Send => self.closed_error(subject),
            }),
            Err(_) => Err(Error::new(
                ErrorKind::Timeout,
                format!("publish on {subject} at {}: the connection takes nothing{}", self.url(), self.link_note()),
            )),
        }
    }

    /// Messages of a subject. Returns when the server knows of the subscription, so what is published
    /// afterwards arrives.
    pub async fn subscribe(&self, subject: &str) -> Result<Subscription> {
        Ok(Subscription { inner: self.subscribe_raw(subject, None).await? })
    }

    /// Requests on a subject; members of the same queue share them.
    pub async fn serve(&self, subject: &str, queue: Option<&str>) -> Result<Requests> {
        Ok(Requests { inner: self.subscribe_raw(subject, queue).await?, bus: self.clone() })
    }

    async fn subscribe_raw(&self, subject: &str, queue: Option<&str>) -> Result<async_nats::Subscriber> {
        let mut denials = self.inner.link.denials();
        let client = &self.inner.client;
        let subscribe = async {
            match queue {
                Some(queue) => client.queue_subscribe(subject.to_owned(), queue.to_owned()).await,
                None => client.subscribe(subject.to_owned()).await,
            }
        };
        let subscriber = match timeout(self.request_timeout(), subscribe).await {
            Ok(Ok(subscriber)) => subscriber,
            Ok(Err(error)) if error.kind() == async_nats::SubscribeErrorKind::Other => {
                return Err(self.closed_error(subject));
            }
            Ok(Err(error)) => return Err(bad_subject(subject).because(error)),
            Err(_) => return Err(self.no_answer(subject, self.request_timeout())),
        };
        tokio::select! {
            biased;
            denied = denials.wait(Action::Subscribe, |denied| denied == subject) => {
                return Err(self.denied(&denied.subject));
            }
            known = self.round_trip() => known?,
        }
        // The refusal precedes the round trip's answer on the wire, but comes through another task.
        let grace = Duration::from_millis(10);
        if let Ok(denied) = timeout(grace, denials.wait(Action::Subscribe, |denied| denied == subject)).await {
            return Err(self.denied(&denied.subject));
        }
        Ok(subscriber)
    }

    /// Ends when the server has processed everything sent before.
    pub(crate) async fn round_trip(&self) -> Result<()> {
        match self.ask(SERVER_USER_INFO, HeaderMap::new(), Bytes::new(), self.request_timeout()).await {
            Ok(_) => Ok(()),
            // Also "no responders", or "not allowed": an answer of the server either way.
            Err(error) if matches!(error.kind(), ErrorKind::Unreachable | ErrorKind::Permission) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// One request, one answer. [`ErrorKind::Unreachable`] when nobody serves the subject,
    /// [`ErrorKind::Permission`] when the server refuses it.
    pub(crate) async fn ask(
        &self,
        subject: &str,
        headers: HeaderMap,
        payload: Bytes,
        limit: Duration,
    ) -> Result<Message> {
        let bytes = payload.len();
        let mut denials = self.inner.link.denials();
        let mut request = async_nats::Request::new().payload(payload).timeout(Some(limit));
        if !headers.is_empty() {
            request = request.headers(headers);
        }
        let answer = timeout(limit, self.inner.client.send_request(subject.to_owned(), request));
        let answer = tokio::select! {
            answer = answer => answer,
            denied = denials.wait(Action::Publish, |denied| denied == subject) => {
                return Err(self.denied(&denied.subject));
            }
        };
        match answer {
            Ok(Ok(message)) => Ok(message),
            Err(_) => Err(self.no_answer(subject, limit)),
            Ok(Err(error)) => Err(match error.kind() {
                RequestErrorKind::TimedOut => self.no_answer(subject, limit),
                RequestErrorKind::NoResponders => {
                    Error::new(ErrorKind::Unreachable, format!("nobody answers on {subject} at {}", self.url()))
                }
                RequestErrorKind::InvalidSubject => bad_subject(subject),
                RequestErrorKind::MaxPayloadExceeded => self.too_large(subject, bytes),
                // The connection was replaced while the answer was due, or closed for good.
                RequestErrorKind::Other if self.is_closed() => self.closed_error(subject),
                RequestErrorKind::Other => self.no_answer(subject, limit),
            }),
        }
    }

    /// A request to a role's service. Repeats it, with the same envelope id, while no coordinator
    /// leads, nobody serves or no answer comes, until `deadline` from now has passed.
    pub async fn request<R: Request>(
        &self,
        request: R,
        job: Option<&JobId>,
        deadline: Duration,
    ) -> Result<R::Answer, WireError> {
        self.request_in_trace(request, job, None, deadline).await
    }

    /// The same as a part of a trace.
    pub async fn request_in_trace<R: Request>(
        &self,
        request: R,
        job: Option<&JobId>,
        trace: Option<TraceParent>,
        deadline: Duration,
    ) -> Result<R::Answer, WireError> {
        let until = Instant::now() + deadline;
        let subject = self.subjects().svc(R::ROLE, R::VERB);
        let mut envelope = self.envelope(request).traced(trace);
        envelope.jobid = job.cloned();
        let headers = envelope_headers(&envelope, Encoding::MsgPack);
        let payload = Bytes::from(envelope.encode(Encoding::MsgPack));
        let begun = Instant::now();
        let mut pause = FIRST_PAUSE;
        loop {
            let limit = self.request_timeout().min(until.saturating_duration_since(Instant::now()));
            let answer = self.exchange::<R::Answer>(&subject, headers.clone(), payload.clone(), limit).await;
            let error = match answer {
                Err(error) if may_be_asked_again(&error) => error,
                done => {
                    metrics::histogram!("within_bus_request_seconds", "verb" => R::VERB)
                        .record(begun.elapsed().as_secs_f64());
                    return done;
                }
            };
            if Instant::now() + pause >= until {
                return Err(error);
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// A request to a peer, tried once; the peer answers with a [`Reply`].
    pub async fn request_to<T: Payload, A: DeserializeOwned>(
        &self,
        subject: &str,
        data: T,
        timeout: Duration,
    ) -> Result<A, WireError> {
        self.request_traced(subject, data, None, timeout).await
    }

    /// The same as a part of a trace.
    pub async fn request_traced<T: Payload, A: DeserializeOwned>(
        &self,
        subject: &str,
        data: T,
        trace: Option<TraceParent>,
        timeout: Duration,
    ) -> Result<A, WireError> {
        let envelope = self.envelope(data).traced(trace);
        let headers = envelope_headers(&envelope, Encoding::MsgPack);
        self.exchange(subject, headers, envelope.encode(Encoding::MsgPack).into(), timeout).await
    }

    async fn exchange<A: DeserializeOwned>(
        &self,
        subject: &str,
        headers: HeaderMap,
        payload: Bytes,
        limit: Duration,
    ) -> Result<A, WireError> {
        let message = self.ask(subject, headers, payload, limit).await.map_err(|error| error.to_wire())?;
        let content_type =
            message.headers.as_ref().and_then(|h| h.get(HEADER_CONTENT_TYPE)).map(async_nats::HeaderValue::as_str);
        match decode_any::<Envelope<Reply<A>>>(content_type, &message.payload) {
            Ok(envelope) => envelope.data.into_result(),
            Err(error) => {
                let reason = if is_publish_ack(&message.payload) {
                    "a stream captures this subject and acknowledged the request; whom it was meant for cannot answer"
                        .to_owned()
                } else {
                    error.to_string()
                };
                Err(WireError::new(Code::BadMessage, format!("answer on {subject}: {reason}")))
            }
        }
    }

    pub(crate) fn denied(&self, subject: &str) -> Error {
        Error::new(
            ErrorKind::Permission,
            format!(
                "NATS at {} does not allow this process to use {subject}; allow the subject for its credentials",
                self.url()
            ),
        )
    }

    pub(crate) fn closed_error(&self, subject: &str) -> Error {
        Error::new(ErrorKind::Closed, format!("{subject}: the connection to {} is closed", self.url()))
    }

    fn no_answer(&self, subject: &str, limit: Duration) -> Error {
        let limit_s = limit.as_secs_f64();
        Error::new(
            ErrorKind::Timeout,
            format!("no answer on {subject} at {} within {limit_s:.1} s{}", self.url(), self.link_note()),
        )
    }

    fn too_large(&self, subject: &str, bytes: usize) -> Error {
        let max = self.inner.client.max_payload();
        Error::new(
            ErrorKind::BadMessage,
            format!(
                "message of {bytes} bytes on {subject}: the server at {} accepts {max} with headers (max_payload)",
                self.url()
            ),
        )
        .coded(Code::TooLarge)
    }
}

/// Whether the same request, asked again, may be answered.
fn may_be_asked_again(error: &WireError) -> bool {
    error.retry && matches!(error.code, Code::NotLeader | Code::BusUnavailable | Code::DeadlineExceeded)
}

fn is_publish_ack(payload: &[u8]) -> bool {
    serde_json::from_slice::<serde_json::Value>(payload)
        .is_ok_and(|value| value.get("stream").is_some() && value.get("seq").is_some())
}

fn bad_subject(subject: &str) -> Error {
    Error::new(ErrorKind::Other, format!("{subject:?} is not a subject"))
}

/// A header's value may hold no line breaks.
pub(crate) fn header_text(text: &str) -> String {
    text.replace(['\r', '\n'], " ")
}

pub(crate) fn envelope_headers<T: Payload>(envelope: &Envelope<T>, encoding: Encoding) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(HEADER_CONTENT_TYPE, encoding.content_type());
    headers.insert(HEADER_MSG_ID, header_text(&envelope.id).as_str());
    if let Some(parent) = &envelope.traceparent {
        headers.insert(HEADER_TRACEPARENT, header_text(&parent.0).as_str());
    }
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_passing_trouble_is_asked_again() {
        assert!(may_be_asked_again(&WireError::new(Code::NotLeader, "")));
        assert!(may_be_asked_again(&Error::new(ErrorKind::Timeout, "").to_wire()));
        assert!(may_be_asked_again(&Error::new(ErrorKind::Unreachable, "").to_wire()));
        assert!(!may_be_asked_again(&Error::new(ErrorKind::Closed, "").to_wire()));
        for code in [Code::ConfigError, Code::PermissionDenied, Code::BadMessage, Code::DeadlineExceeded] {
            assert!(!may_be_asked_again(&WireError::new(code, "")), "{code:?}");
        }
    }

    #[test]
    fn a_publish_ack_is_told_from_an_answer() {
        assert!(is_publish_ack(br#"{"stream":"WITHIN_WORK","seq":7}"#));
        assert!(!is_publish_ack(br#"{"data":{"ok":1}}"#));
        assert!(!is_publish_ack(b"\x81\xa2ok"));
    }
}
