//! Watches: a cursor over the log, so that nothing is lost or reordered between a list and its watch.

use alloc::sync::Arc;
use core::time::Duration;
use std::io;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

use super::query::Query;
use super::resource::Resource;
use super::selector::Filter;
use super::status::Status;
use super::store::{Store, at_revision};
use super::{Fault, Shared, StreamingLists};

/// Where the body of an answer goes, piece by piece.
pub(super) type Sender = mpsc::Sender<Result<Bytes, io::Error>>;

/// A watch that was asked for.
pub(super) struct Watch {
    pub(super) resource: &'static Resource,
    pub(super) filter: Filter,
    cursor: u64,
    initial: Initial,
    bookmarks: bool,
    deadline: Instant,
}

/// Which events for what is there already come first.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Initial {
    None,
    State,
    /// With a bookmark that says that they are complete.
    StateAndEnd,
}

impl Watch {
    pub(super) fn new(
        shared: &Shared,
        resource: &'static Resource,
        filter: Filter,
        query: &Query,
    ) -> Result<Self, Status> {
        let asked = query.text("resourceVersion");
        let number = asked.parse::<u64>();
        let is_streaming = query.is_true("sendInitialEvents");
        if is_streaming {
            if query.text("resourceVersionMatch") != "NotOlderThan" {
                return Err(Status::invalid(
                    "resourceVersionMatch is required with sendInitialEvents",
                ));
            }
            if shared.options.streaming_lists == StreamingLists::Forbidden {
                return Err(Status::invalid(
                    "sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled",
                ));
            }
        }
        let (cursor, initial) = match (asked, number) {
            (_, _) if is_streaming => (0, Initial::StateAndEnd),
            ("" | "0", _) => (0, Initial::State),
            (_, Ok(number)) => (number, Initial::None),
            (_, Err(_)) => return Err(Status::bad_request("invalid resourceVersion")),
        };
        let timeout = query.number("timeoutSeconds").unwrap_or(1800);
        Ok(Self {
            resource,
            filter,
            cursor,
            initial,
            bookmarks: query.is_true("allowWatchBookmarks"),
            deadline: Instant::now() + Duration::from_secs(timeout),
        })
    }

    /// Sends until the deadline, a fault, or the client's end.
    pub(super) async fn run(mut self, shared: Arc<Shared>, sender: Sender) {
        let mut changed = shared.changed.subscribe();
        let mut cut = shared.cut.subscribe();
        if shared.fault() == Some(Fault::Expired) {
            // Not with the head of the answer, which alone is no progress.
            sleep(Duration::from_millis(20)).await;
            let _ = send(&sender, &error(&Status::expired(self.cursor, u64::MAX))).await;
            return;
        }
        if self.initial == Initial::StateAndEnd
            && shared.options.streaming_lists == StreamingLists::Unsupported
        {
            let status =
                Status::internal("required storage feature RequestWatchProgress is disabled");
            let _ = send(&sender, &error(&status)).await;
            return;
        }
        let mut next_bookmark = Instant::now() + shared.options.bookmark_interval;
        loop {
            while shared.fault() == Some(Fault::Mute) {
                tokio::select! {
                    _ = cut.changed() => return,
                    () = sender.closed() => return,
                    () = sleep(Duration::from_millis(5)) => {}
                }
            }
            changed.borrow_and_update();
            let lines = self.lines(&shared.store());
            let ends = lines.as_ref().is_err();
            for line in lines.unwrap_or_else(|status| vec![error(&status)]) {
                if shared.fault() == Some(Fault::Cut) {
                    let half = line.split_at(line.len() / 2).0.to_owned();
                    let _ = send(&sender, &half).await;
                    // The half has to be on its way before the connection goes.
                    sleep(Duration::from_millis(20)).await;
                    let _ = sender.send(Err(io::ErrorKind::ConnectionReset.into())).await;
                    return;
                }
                if send(&sender, &line).await.is_err() {
                    return;
                }
            }
            if ends {
                return;
            }
            tokio::select! {
                _ = changed.changed() => {}
                _ = cut.changed() => {
                    if shared.fault() == Some(Fault::StreamError) {
                        let _ = send(&sender, &error(&Status::internal("etcd is away"))).await;
                    }
                    return;
                }
                () = sender.closed() => return,
                () = sleep_until(self.deadline) => return,
                () = sleep_until(next_bookmark) => {
                    next_bookmark += shared.options.bookmark_interval;
                    if self.bookmarks {
                        let line = self.bookmark(&shared.store(), &json!({}));
                        if send(&sender, &line).await.is_err() {
                            return;
                        }
                    }
                }
            }
        }
    }

    /// What happened since the cursor.
    fn lines(&mut self, store: &Store) -> Result<Vec<String>, Status> {
        let mut lines = Vec::new();
        let initial = core::mem::replace(&mut self.initial, Initial::None);
        if initial != Initial::None {
            let objects =
                store.objects(self.resource).filter(|(_, object)| self.filter.admits(object));
            lines.extend(objects.map(|(_, object)| line("ADDED", object)));
            self.cursor = store.revision;
            if initial == Initial::StateAndEnd {
                let annotations = json!({ "k8s.io/initial-events-end": "true" });
                lines.push(self.bookmark(store, &annotations));
            }
            return Ok(lines);
        }
        if self.cursor < store.horizon {
            return Err(Status::expired(self.cursor, store.horizon));
        }
        let start = store.log.partition_point(|change| change.revision <= self.cursor);
        for change in store.log.range(start..) {
            if change.resource != self.resource {
                continue;
            }
            // A selector sees an object come and go as its labels change; what goes is shown as it was.
            let before = change.before.as_ref().filter(|before| self.filter.admits(before));
            let after = change.after.as_ref().filter(|after| self.filter.admits(after));
            match (before, after) {
                (None, None) => {}
                (None, Some(after)) => lines.push(line("ADDED", after)),
                (Some(_), Some(after)) => lines.push(line("MODIFIED", after)),
                (Some(before), None) => {
                    lines.push(line("DELETED", &at_revision(before, change.revision)));
                }
            }
        }
        self.cursor = self.cursor.max(store.revision);
        Ok(lines)
    }

    fn bookmark(&self, store: &Store, annotations: &Value) -> String {
        let mut metadata = json!({ "resourceVersion": store.revision.to_string() });
        if annotations.as_object().is_some_and(|annotations| !annotations.is_empty())
            && let Some(metadata) = metadata.as_object_mut()
        {
            metadata.insert("annotations".into(), annotations.clone());
        }
        let object = json!({
            "kind": self.resource.kind, "apiVersion": self.resource.group_version(), "metadata": metadata,
        });
        line("BOOKMARK", &object)
    }
}

fn line(kind: &str, object: &Value) -> String {
    format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n")
}

fn error(status: &Status) -> String {
    line("ERROR", &status.to_json())
}

async fn send(sender: &Sender, text: &str) -> Result<(), ()> {
    sender.send(Ok(Bytes::copy_from_slice(text.as_bytes()))).await.map_err(drop)
}
