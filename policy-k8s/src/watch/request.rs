//! Requests that end: every wait has a limit.

use core::time::Duration;

use http::Request;
use http_body_util::BodyExt as _;
use kube::client::Body;
use tokio::time::{Instant, timeout, timeout_at};

use super::failure::Failure;
use super::wire::Status;

/// Asks, and returns the body of a good answer.
pub(super) async fn get(
    client: &kube::Client,
    path: &str,
    limit: Duration,
) -> Result<Body, Failure> {
    let request = Request::get(path)
        // Since 1.37 servers compress watches event by event, which delays them.
        .header(http::header::ACCEPT_ENCODING, "identity")
        .header(http::header::ACCEPT, "application/json")
        .body(Body::empty())
        .map_err(|error| Failure::Malformed(error.into()))?;
    // The client itself waits for ever for a server that accepts and never answers.
    let response = timeout(limit, client.send(request)).await;
    let response = response.map_err(|_| Failure::Silent(limit))?;
    let response = response.map_err(|error| Failure::Unreachable(error.into()))?;
    let code = response.status().as_u16();
    let body = response.into_body();
    if code == 200 {
        return Ok(body);
    }
    // Not every refusal is a Status: an unknown path is told in plain text.
    let text = whole(body, limit).await.unwrap_or_default();
    let status = serde_json::from_slice(&text).unwrap_or_else(|_| Status {
        code,
        reason: "Unknown".to_owned(),
        message: String::from_utf8_lossy(&text).trim().chars().take(200).collect(),
    });
    Err(Failure::of_status(code, status))
}

/// Reads a whole body.
pub(super) async fn whole(body: Body, limit: Duration) -> Result<Vec<u8>, Failure> {
    let bytes = timeout(limit, body.collect()).await.map_err(|_| Failure::Silent(limit))?;
    let bytes = bytes.map_err(|error| Failure::Unreachable(error.into()))?;
    Ok(bytes.to_bytes().into())
}

/// The lines of a watch.
pub(super) struct Lines {
    body: Body,
    buffer: Vec<u8>,
    /// Up to here the buffer has no line break.
    searched: usize,
    /// When even a quiet watch must have been ended by the server.
    pub(super) deadline: Instant,
    limit: Duration,
}

impl Lines {
    pub(super) fn new(body: Body, limit: Duration) -> Self {
        Self { body, buffer: Vec::new(), searched: 0, deadline: Instant::now() + limit, limit }
    }

    /// Waits for a line. `None` is a proper end. May be dropped while it waits without losing anything.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<u8>>, Failure> {
        loop {
            let rest = self.buffer.get(self.searched..).unwrap_or_default();
            if let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let tail = self.buffer.split_off(self.searched + end + 1);
                self.searched = 0;
                return Ok(Some(core::mem::replace(&mut self.buffer, tail)));
            }
            self.searched = self.buffer.len();
            let frame = timeout_at(self.deadline, self.body.frame()).await;
            let frame = frame.map_err(|_| Failure::Silent(self.limit))?;
            match frame {
                Some(Ok(frame)) => {
                    if let Ok(bytes) = frame.into_data() {
                        self.buffer.extend_from_slice(&bytes);
                    }
                }
                Some(Err(_)) if !self.buffer.is_empty() => return Err(Failure::CutOff),
                Some(Err(error)) => return Err(Failure::Unreachable(error.into())),
                None if self.buffer.iter().all(u8::is_ascii_whitespace) => return Ok(None),
                None => return Err(Failure::CutOff),
            }
        }
    }
}

/// Escapes a value for a query.
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use kube::client::Body;

    use super::Lines;
    use crate::watch::Failure;

    #[test]
    fn a_stream_that_ends_within_a_line_was_cut_off() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(cut_off());
    }

    async fn cut_off() {
        let lines = |text: &'static str| {
            let body = Body::from(text.as_bytes().to_vec());
            Lines::new(body, Duration::from_secs(1))
        };
        let mut whole = lines("{\"a\":1}\n{}\n\n");
        assert_eq!(whole.next().await.unwrap().unwrap(), b"{\"a\":1}\n");
        assert_eq!(whole.next().await.unwrap().unwrap(), b"{}\n");
        assert_eq!(whole.next().await.unwrap().unwrap(), b"\n");
        assert_eq!(whole.next().await.unwrap(), None);
        let mut cut = lines("{}\n{\"a\"");
        assert_eq!(cut.next().await.unwrap().unwrap(), b"{}\n");
        assert!(matches!(cut.next().await, Err(Failure::CutOff)));
    }
}
